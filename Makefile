# Everything a newcomer needs. Each target prepares what it uses, so any of them may come first.
SHELL := /bin/bash
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
JOBS ?= 2

# The first Python that really runs, is 3.11 or later and can make an environment.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow bench lint format docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.stamp ## Make the environment in .venv (about five minutes the first time, nothing afterwards)

$(VENV)/.stamp: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv found: install one (Debian: apt-get install \
	python3 python3-venv) or say which, as in: make setup PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about 5 GB with torch's CUDA libraries) ..." >&2
	$(PIP) torch torchvision
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp
	$(PIP) --editable '.[dev,bench]'
	@touch $@

demo: $(VENV)/.stamp ## Synthetic images with masks, figures and a page, in demo/
	$(RUN) examples/demo.py

test: export OMP_NUM_THREADS := 1
test: $(VENV)/.stamp ## Run the quick tests
	$(RUN) -m pytest -q -n $(JOBS) -m "not slow and not gpu"

test-slow: $(VENV)/.stamp ## Run the slow tests too, and those for a GPU where there is one
	$(RUN) -m pytest -q

bench: $(VENV)/.stamp-bench ## Measure speed against named peers
	@failed=0; for script in benchmarks/*.py; do \
		echo "== $$script" >&2; $(RUN) "$$script" || failed=1; done; exit $$failed

lint: $(VENV)/.stamp ## Check style and types
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m pyright

format: $(VENV)/.stamp ## Apply the style
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

docs: $(VENV)/.stamp ## Write the command-line reference anew
	$(RUN) docs/generate_cli.py

clean: ## Remove caches, builds and the demo; keeps .venv and runs/
	rm -rf demo build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests docs examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
