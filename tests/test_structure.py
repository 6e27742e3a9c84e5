"""The layers of the library: imports point downwards only, and TensorFlow stays where it belongs."""

import ast
import graphlib
import importlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = [
    {"keras_private", "serialization", "types"},
    {"backend", "checks", "files"},
    {"losses", "networks", "long_tail", "results", "batches", "teachers"},
    {"bilevel", "metrics", "plots"},
    {"objectives", "data"},
    {"models"},
    {"callbacks", "tuner"},
    {"comparison"},
    {"keras_bikd"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
WITH_TENSORFLOW = {"backend", "data", "batches"}
FACES = ["keras_bikd"] + [
    f"keras_bikd.{name}" for name in ("bilevel", "callbacks", "comparison", "data", "models", "objectives")
]
MODULES = sorted((ROOT / "keras_bikd").rglob("*.py"))


def part(path):
    """The unit of a file: a module, or a sub-package as a whole; the facade is `keras_bikd`."""
    name = path.relative_to(ROOT / "keras_bikd").parts[0].removesuffix(".py")
    return "keras_bikd" if name == "__init__" else name


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "keras_bikd":
            yield from (f"keras_bikd.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = part(path)
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "keras_bikd":
            other = rest.split(".")[0]
            assert other == own or LEVEL[other] < LEVEL[own], f"{own} imports {other}"
        if package == "tensorflow":
            assert own in WITH_TENSORFLOW, f"{own} imports tensorflow"
        if package in {"jax", "torch"}:
            assert own == "backend", f"{own} imports {package}"


def file_of(module):
    """The file of a module of the library, or the `__init__` of a package."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def imported_files(path):
    """What a file imports from the library, also inside its functions: submodules, and files that names come from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from filter(None, (file_of(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                file = file_of(f"{node.module}.{alias.name}") or file_of(node.module)
                yield from filter(None, [file])


def test_there_is_no_circle_between_files():
    graph = {path: set(imported_files(path)) - {path} for path in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" > ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_every_module_has_a_docstring():
    assert not [path for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))]


def test_every_name_that_a_package_offers_has_a_docstring():
    """`__all__` stands only in the packages that users import from."""
    for path in MODULES:
        lists = [line for line in path.read_text().splitlines() if line.startswith("__all__ = ")]
        assert len(lists) == (path in {ROOT / face.replace(".", "/") / "__init__.py" for face in FACES}), path
    for face in FACES:
        module = importlib.import_module(face)
        assert not [name for name in module.__all__ if not getattr(module, name).__doc__]


def public_functions(nodes):
    """Functions and methods that others may call or override, with the constructors."""
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef) and (node.name[0] != "_" or node.name.endswith("__")):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_are_annotated_and_take_at_most_nine_arguments(path):
    for function in public_functions(ast.parse(path.read_text()).body):
        taken = function.args
        arguments = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
        assert len({argument.arg for argument in arguments if argument is not None} - {"self", "cls"}) <= 9, (
            function.name
        )
        bare = [argument.arg for argument in arguments if argument is not None and argument.annotation is None]
        assert not set(bare) - {"self", "cls"}, f"{function.name}: {bare}"
        assert function.returns is not None, function.name


def test_functions_fit_on_a_screen():
    """At most 33 lines, without signature and docstring."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body if ast.get_docstring(node) is None else node.body[1:]
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= 33, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_recipes_import_keras_the_library_and_each_other(path):
    known = {"keras", "keras_bikd", "keras_tuner", *(recipe.stem for recipe in path.parent.glob("*.py"))}
    known |= {
        "benchmark_step.py": {"jax", "tensorflow", "torch"},  # each knows how much memory of a GPU it has taken
        "benchmark_images.py": {"numpy", "PIL"},  # draws JPEG files
        "compare_extras.py": {"numpy"},
        "compare_protocol.py": {"numpy"},
        "compare_tables.py": {"numpy"},
        "cifar10_lt.py": {"torch"},  # begins processes, for which Keras 3.15 has no function
        "figures.py": {"matplotlib", "numpy"},
        "glyphs.py": {"matplotlib", "numpy", "PIL", "tensorflow_datasets"},
        "keywords_data.py": {"numpy", "tensorflow_datasets"},
        "wrong_labels.py": {"numpy"},
    }.get(path.name, set())
    for name in imports(path):
        package = name.partition(".")[0]
        assert package in known or package in sys.stdlib_module_names, name


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)])
def test_importing_the_library_imports_no_other_package_than_keras_does(backend):
    """Neither SciPy, scikit-learn, matplotlib nor TensorFlow: an import costs little more than that of Keras."""
    packages = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys, keras; before = {packages}; import keras_bikd; print(*({packages} - before))"
    environment = {**os.environ, "KERAS_BACKEND": backend}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert set(run.stdout.split()) - sys.stdlib_module_names == {"keras_bikd"}


def test_ci_runs_every_python_that_the_package_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [name.rpartition(" ")[2] for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)]
    matrix = re.search(r"python: \[(.+)\]", (ROOT / ".github/workflows/ci.yml").read_text()).group(1)
    assert re.findall(r"[\d.]+", matrix) == declared
    assert project["requires-python"] == f">={declared[0]}"


def test_make_test_runs_tensorflow_after_jax_has_failed(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$KERAS_BACKEND" >> calls\nexit 1\n')
    python.chmod(0o755)
    (tmp_path / ".venv/installed-dev").touch()
    # Nothing of an outer `make`: its flags would be inherited.
    run = subprocess.run([shutil.which("make"), "test"], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, check=False)
    assert run.returncode != 0
    assert (tmp_path / "calls").read_text().split() == ["jax", "tensorflow"]
