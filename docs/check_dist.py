"""Build wheel and source distribution, check them, and run the README's code with the wheel.

    python docs/check_dist.py

They are built from the files that git knows, with a README whose links to files beside it are absolute: a package index
shows it without these files. The wheel is installed with the extras `tensorflow` and `viz` into an empty environment,
which has nothing of this checkout. Set `WHEEL_ONLY=1` to leave that out: it downloads TensorFlow.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
RELATIVE_LINK = re.compile(r"(!?)(\[[^]]*\])\((?!https?://|#)([^)]+)\)")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def main():
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        copy_for_index(pathlib.Path(folder))
        run(sys.executable, "-m", "build", "--outdir", dist, folder)
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    check_contents(wheel, source)
    if not os.environ.get("WHEEL_ONLY"):
        run_readme(wheel)


def copy_for_index(folder):
    """Copy the files that git knows, the README with absolute links."""
    git = shutil.which("git") or "git"
    known = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in known.rstrip("\0").split("\0"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, path)
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    readme = folder / "README.md"
    readme.write_text(with_absolute_links(readme.read_text(), repository))


def with_absolute_links(text, repository):
    """Markdown whose links to files of the repository are absolute; images are linked as files, not as pages."""

    def absolute(link):
        image, label, path = link.groups()
        return f"{image}{label}({repository}/{'raw' if image else 'blob'}/main/{path})"

    return RELATIVE_LINK.sub(absolute, text)


def check_contents(wheel, source):
    """Raise unless the wheel has every file of the package and nothing else, and the source what builds it."""
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "keras_bikd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package |= {f"{module}.py" for module in setuptools.get("py-modules", [])}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
    if names != package or not licences:
        raise SystemExit(f"{wheel.name} lacks {package - names}, and has too much: {names - package}")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if lacking := (package | {"pyproject.toml", "README.md", "LICENSE"}) - names:
        raise SystemExit(f"{source.name} lacks {lacking}")
    print(f"{wheel.name}: {len(package)} files, {wheel.stat().st_size / 1e3:.0f} kB")


def run_readme(wheel):
    """Run the Python code of the README with the wheel alone."""
    code = "\n".join(PYTHON_BLOCK.findall((ROOT / "README.md").read_text()))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(pathlib.Path(folder, "env"), with_pip=True)
        python = pathlib.Path(folder, "env/bin/python")
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[tensorflow,viz]")
        script = pathlib.Path(folder, "readme.py")
        script.write_text(f"import keras_bikd\nassert {folder!r} in keras_bikd.__file__\n{code}")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        run(python, script, cwd=folder, env=environment)
        if not pathlib.Path(folder, "student.keras").exists():
            raise SystemExit("The code of the README has saved no student.")


def run(*command, **kwargs):
    """Run a command, and raise if it fails."""
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, **kwargs)


if __name__ == "__main__":
    main()
