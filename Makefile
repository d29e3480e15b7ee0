# Two commands matter: `make demo` and `make test`. Both start from a bare clone and install into .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# A process that ends names its test and ends the run: started anew, it would come to the same test again.
XDIST := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0
DEMO ?= demo

.PHONY: help install install-dev demo test soak lint types docs clean

help:  ## Say what each target does.
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# The stamp holds the extras, so that neither target installs what the other has installed already.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[pretrain]'
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[pretrain,sources,publish,docs,dev]'
	touch $(VENV)/.installed $@

install: $(VENV)/.installed  ## Install the commands into .venv.

install-dev: $(VENV)/.installed-dev  ## Install what the tests, the types and the docs need as well.

demo: install  ## Run the whole chain on the shipped imagery; results in demo/.
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo.sh $(DEMO)

lint: install-dev  ## Style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev  ## Static types.
	$(BIN)/mypy

test: lint types  ## Lint, types and tests, as CI runs them.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(XDIST) $(PYTEST_ARGS)

soak: install-dev  ## Loops of kills and faults, the report in Chromium, clusters, other libraries: minutes to hours.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -v --durations=0 -o faulthandler_timeout=0 $(PYTEST_ARGS)

docs: install-dev  ## Build the documentation into site/.
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

clean:  ## Remove what the commands made (not .venv).
	rm -rf demo site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
