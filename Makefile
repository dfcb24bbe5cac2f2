# `make repro` and `make test` do everything, install included. PYTHON chooses the interpreter, 3.11 to 3.13.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(if $(shell command -v python$(version)),python$(version))) python3)
VENV ?= .venv
# dvc.yaml calls `bilstm-attention` by name
export PATH := $(abspath $(VENV))/bin:$(PATH)
INSTALLED := $(VENV)/.installed
# with what the slow tests of optional features need, and the documentation
COMPLETE := $(VENV)/.complete
# seeds that `make repro` trains at once, each on one thread; 1 for a GPU
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# a file of tests shares its fixtures on one worker; the end-to-end run, the longest, starts first
PYTEST := $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install repro test test-all lint format docs ui clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install the pinned versions into it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(COMPLETE): $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,encoder]'
	touch $@

repro: $(INSTALLED) ## run the pipeline: prepare, embed, train (JOBS seeds at once), evaluate, report
	@set -- $$($(VENV)/bin/dvc stage list --name-only train); \
	if [ $$# -gt 1 ] && [ $(JOBS) -gt 1 ]; then \
		$(VENV)/bin/dvc repro --quiet embed && export BILSTM_ATTENTION_THREADS=1 && printf '%s\n' "$$@" | \
		xargs -P $(JOBS) -n 1 $(VENV)/bin/dvc --wait-for-lock repro --quiet --single-item | cat; \
	fi
	$(VENV)/bin/dvc repro
	$(VENV)/bin/bilstm-attention scores

test: $(INSTALLED) ## run the unit tests and one real run of the pipeline
	$(PYTEST) tests/end_to_end tests/unit

test-all: $(COMPLETE) ## run every test, slow ones too, with coverage
	$(PYTEST) tests/slow tests/end_to_end tests/unit --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(INSTALLED) ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(INSTALLED) ## rewrite the code in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(COMPLETE) ## build the documentation into site/, strictly
	$(VENV)/bin/mkdocs build --strict

ui: $(INSTALLED) ## open the MLflow UI on the project's runs
	$(VENV)/bin/bilstm-attention ui

clean: ## delete caches and build files; results, runs and fetched data stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov dvc_plots
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and delete the virtual environment
	rm -rf $(VENV)
