"""The layers of the library: imports point downwards only, and TensorFlow stays where it belongs."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = [
    {"version", "backend", "checks"},
    {"losses", "networks", "long_tail", "results"},
    {
        "hypergradient",
        "meta_weight_net",
        "objectives",
        "metrics",
        "plots",
        "bilevel_optimizer",
        "data",
        "teacher_reference",
    },
    {"teacher_student", "learned_weights"},
    {"meta_guided_model", "distillation_model"},
    {"bikd_model", "rwkd_model", "lfme_model"},
    {"callbacks", "tuner"},
    {"comparison"},
    {"keras_bikd"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
WITH_TENSORFLOW = {"backend", "data"}
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
        if package == "jax":
            assert own == "backend", f"{own} imports jax"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_recipes_import_keras_the_library_and_each_other(path):
    for name in imports(path):
        package = name.partition(".")[0]
        known = {"keras", "keras_bikd", "keras_tuner", *(recipe.stem for recipe in path.parent.glob("*.py"))}
        assert package in known or package in sys.stdlib_module_names, name


@pytest.mark.slow
def test_importing_the_library_does_not_import_the_optional_parts():
    optional = ("matplotlib", "tensorflow_datasets", "sklearn", "keras_tuner")  # keras may import some by itself
    count = f"sum(name in sys.modules for name in {optional})"
    code = f"import sys, keras; before = {count}; import keras_bikd; print({count} - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "0"
