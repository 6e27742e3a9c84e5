"""The recipe `compare.py` on its command line, with cells in forked processes, for spawned ones would import anew.

A process forked from one that has run an operation of TensorFlow hangs. The recipe runs none itself.
"""

import multiprocessing
import pathlib
import runpy
import sys

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"
context = multiprocessing.get_context("fork")

if __name__ == "__main__":
    sys.path.insert(0, str(RECIPES))
    multiprocessing.get_context = lambda method: context
    runpy.run_path(str(RECIPES / "compare.py"), run_name="__main__")
