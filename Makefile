# Each target sets up all it needs, in .venv, on a machine with Python 3.11 and make.
# Another Python: `make clean`, then for example `make test PYTHON=python3.13`.
PYTHON ?= python3.11
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2
unexport PYTHONDONTWRITEBYTECODE  # every worker of the tests would compile the same modules anew

BACKENDS := tensorflow jax torch
# Two workers; one that has finished takes tests from the other.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal --durations 10
# For every day: the mathematics, and what is refused.
MATHEMATICS := golden losses long_tail hypergradient forward_difference properties networks
FAST := $(MATHEMATICS:%=tests/test_%.py) tests/test_bad_input.py

.PHONY: quickstart test test-jax test-tensorflow test-torch test-fast test-all test-prerelease lint site docs docs-code \
	tutorials tutorial-pages dist clean $(BACKENDS:%=all-on-%)

quickstart: .venv/installed-quickstart
	$(BIN)/python recipes/digits_lt.py

# Behaviour on JAX, which traces and compiles faster; what is TensorFlow's on TensorFlow. Both run, also when one fails.
test:
	$(MAKE) --no-print-directory -k test-jax test-tensorflow

test-jax: .venv/installed-dev
	KERAS_BACKEND=jax $(PYTEST) -m "not slow" tests

test-tensorflow: .venv/installed-dev
	KERAS_BACKEND=tensorflow $(PYTEST) -m "(backend or tensorflow) and not slow"

test-torch: .venv/installed-dev
	KERAS_BACKEND=torch $(PYTEST) -m "backend and not slow" tests

test-fast: .venv/installed-dev
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow" $(FAST)

# The code of the tutorials and of long pages, with short trainings; `make test` has the other pages.
docs-code: .venv/installed-dev
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow tests/test_docs.py

# Every test on every backend that it can run on, with processes that are killed, all recipes and the notebooks.
test-all: .venv/installed-dev
	$(MAKE) --no-print-directory -k tutorials $(BACKENDS:%=all-on-%)

$(BACKENDS:%=all-on-%): all-on-%: .venv/installed-dev
	KERAS_BACKEND=$* $(PYTEST) $(if $(filter-out tensorflow,$*),tests)

# Keras' nightly build replaces the release in .venv: `make clean` brings the release back.
test-prerelease: .venv/installed-dev
	$(BIN)/uv pip uninstall --quiet keras
	$(BIN)/uv pip install --quiet --upgrade --prerelease allow keras-nightly
	$(MAKE) --no-print-directory -k test-jax test-tensorflow

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

site: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Executes the notebooks; a kernel is started by its name, so it is the one of .venv.
tutorials: .venv/installed-dev
	$(BIN)/python docs/build_tutorials.py

# The same, and writes what they show into the pages of the site.
tutorial-pages: .venv/installed-dev
	$(BIN)/python docs/build_tutorials.py --write

# Wheel and source distribution, checked, and the README's code run with the wheel in an environment of its own.
dist: .venv/installed-dist
	$(BIN)/python docs/check_dist.py

.venv/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv site build dist *.egg-info
