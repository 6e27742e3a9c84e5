# Each target sets up all it needs, in .venv, on a machine with Python 3.11 and make.
# Another Python: `make clean`, then for example `make test PYTHON=python3.13`.
PYTHON ?= python3.11
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2

# A worker gets two tests at a time, slow ones first. Of those, many wait for processes of their own.
PARALLEL := --maxschedchunk 2 -n 2
WITH_SLOW_TESTS := --maxschedchunk 2 -n 3
# For every day: the mathematics, and what is refused.
MATHEMATICS := golden losses long_tail hypergradient forward_difference properties networks
FAST := $(MATHEMATICS:%=tests/test_%.py) tests/test_bad_input.py tests/test_calls.py

.PHONY: quickstart test test-tensorflow test-jax test-torch test-fast test-prerelease lint site docs tutorials \
	tutorial-pages dist clean

quickstart: .venv/installed-quickstart
	$(BIN)/python recipes/digits_lt.py

# Both parts run, also when the first one fails.
test:
	$(MAKE) --no-print-directory -k test-tensorflow test-jax

test-tensorflow: .venv/installed-dev
	$(BIN)/python -m pytest $(WITH_SLOW_TESTS)

test-jax: .venv/installed-dev
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PARALLEL) -m "backend and not slow" tests

# PyTorch is large: only this target installs it, and `make test` does without.
test-torch: .venv/installed-dev-torch
	KERAS_BACKEND=torch $(BIN)/python -m pytest $(PARALLEL) -m "backend and not slow" tests

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(FAST)

# Keras' nightly build replaces the release in .venv: `make clean` brings the release back.
test-prerelease: .venv/installed-dev
	$(BIN)/python -m pip uninstall --quiet --yes keras
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --pre keras-nightly
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

site: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Executes the notebooks; a kernel is started by its name, so it is the one of .venv.
tutorials: .venv/installed-tutorials
	$(BIN)/python docs/build_tutorials.py

# The same, and writes what they show into the pages of the site.
tutorial-pages: .venv/installed-tutorials
	$(BIN)/python docs/build_tutorials.py --write

# Wheel and source distribution, checked, and the README's code run with the wheel in an environment of its own.
dist: .venv/installed-dist
	$(BIN)/python docs/check_dist.py

.venv/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv site build dist *.egg-info
