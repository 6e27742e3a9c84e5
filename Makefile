# Each target sets up all it needs, in .venv, on a machine with Python 3.11 and make.
# Another Python: `make clean`, then for example `make test PYTHON=python3.13`.
PYTHON ?= python3.11
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2

# What is the same on every backend, and need not be run on both, is left out.
ON_JAX := $(addprefix tests/test_,golden.py hypergradient.py bikd_model.py baselines.py saving.py resume.py \
	comparison.py)

.PHONY: quickstart test test-tensorflow test-jax test-fast test-prerelease lint site docs clean

quickstart: .venv/installed-viz
	$(BIN)/python recipes/digits_lt.py

# Both parts run, also when the first one fails.
test:
	$(MAKE) --no-print-directory -k test-tensorflow test-jax

# Three on two cores: many tests wait for processes of their own.
test-tensorflow: .venv/installed-dev
	$(BIN)/python -m pytest -n 3

test-jax: .venv/installed-dev
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n 3 -m "not slow" $(ON_JAX)

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 -m "not slow"

# Keras' nightly build replaces the release in .venv: `make clean` brings the release back.
test-prerelease: .venv/installed-dev
	$(BIN)/python -m pip uninstall --quiet --yes keras
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --pre keras-nightly
	$(MAKE) --no-print-directory test-fast

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

site: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

.venv/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv site build dist *.egg-info
