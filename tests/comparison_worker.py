"""The recipe `compare.py` on its command line, in a process that is forked."""

import pathlib
import runpy
import sys

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"

if __name__ == "__main__":
    sys.path.insert(0, str(RECIPES))
    runpy.run_path(str(RECIPES / "compare.py"), run_name="__main__")
