# Each target sets up all it needs, in .venv, on a machine with Python 3.11 and make.
PYTHON ?= python3.11
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2

# Three on two cores: many tests wait for processes of their own. A worker gets two tests at a time, slow ones first.
PARALLEL := -n 3 --maxschedchunk 2

.PHONY: quickstart test lint site docs clean

quickstart: .venv/installed-viz
	$(BIN)/python recipes/digits_lt.py

test: .venv/installed-dev
	$(BIN)/python -m pytest $(PARALLEL)
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PARALLEL) -m "backend and not slow" tests

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
	rm -rf .venv site build *.egg-info
