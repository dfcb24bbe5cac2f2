# `make repro` and `make test` do everything, install included. PYTHON chooses the interpreter, 3.11 to 3.13.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(if $(shell command -v python$(version)),python$(version))) python3)
VENV ?= .venv
# dvc.yaml calls `bilstm-attention` by name
export PATH := $(abspath $(VENV))/bin:$(PATH)
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install repro test test-fast lint format ui clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install the pinned versions into it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

repro: $(INSTALLED) ## run the pipeline: prepare, embed, train, evaluate
	$(VENV)/bin/dvc repro
	$(VENV)/bin/bilstm-attention scores

test: $(INSTALLED) ## run every test, with coverage
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90

test-fast: $(INSTALLED) ## run the tests that take seconds
	$(VENV)/bin/python -m pytest -m "not slow"

lint: $(INSTALLED) ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(INSTALLED) ## rewrite the code in the house style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

ui: $(INSTALLED) ## open the MLflow UI on the project's runs
	$(VENV)/bin/bilstm-attention ui

clean: ## delete caches and build files; results, runs and fetched data stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov dvc_plots
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and delete the virtual environment
	rm -rf $(VENV)
