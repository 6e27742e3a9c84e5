"""Build wheel and source distribution, check them, and run the README's code with the wheel.

    python docs/check_dist.py

The wheel is installed with the extras `tensorflow` and `viz` into an empty environment, which has nothing of this
checkout. Set `WHEEL_ONLY=1` to leave that out: it downloads TensorFlow.
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
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def main():
    dist = ROOT / "dist"
    for leftover in (dist, ROOT / "build"):
        shutil.rmtree(leftover, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT)
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    check_contents(wheel, source)
    if not os.environ.get("WHEEL_ONLY"):
        run_readme(wheel)


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
