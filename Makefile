# Every target works on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file shares its fixtures, and Slurm the cores; the order is that of tests/conftest.py.
WORKERS ?= --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: help demo test test-unit lint format clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/.run  ## train one small pair on the built-in toy dataset and name the history and the picture
	$(BIN)/python -m trash_seg.train sweep.name=demo

test: $(VENV)/.test  ## all tests (Slurm and browser tests where these are installed)
	$(BIN)/python -m pytest $(WORKERS)

test-unit: $(VENV)/.test  ## the quick tests only
	$(BIN)/python -m pytest $(WORKERS) -m 'not slow and not slurm'

lint: $(VENV)/.test  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test  ## mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and caches, keep outputs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
