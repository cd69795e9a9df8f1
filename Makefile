# Everything sets itself up in .venv, from the package index and constraints.txt, on a machine with
# Python >= 3.11 and make.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test quick lint format mypy pyright layers docs-check bench soak clean

help: ## Say what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/demo ## Deploy a real model, predict with it, update it, look at its history, delete it
	@$(BIN)/deployledger demo

test: .venv/dev ## Run every check and every test
	@$(MAKE) --jobs 2 lint docs-check
	$(BIN)/python -m pytest -n auto --dist worksteal

quick: format mypy ## Check format, lint and types, and run the tests that need no server and no process
	$(BIN)/python -m pytest -n auto --dist worksteal --quick tests/domain tests/service tests/contracts tests/e2e

lint: format pyright mypy layers ## Check format, lint, types and layers

format: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

mypy: .venv/dev
	$(BIN)/mypy

pyright: .venv/dev
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

layers: .venv/dev
	$(BIN)/lint-imports --no-cache

docs-check: .venv/dev ## Check that generated documentation is true
	$(BIN)/python -m docs.generate --check

bench: .venv/dev ## Measure, beside the library as shipped
	$(BIN)/python -m benchmarks

soak: .venv/dev ## Run the fault tests, and those with generated requests and models, for longer
	DEPLOYLEDGER_SOAK=1 $(BIN)/python -m pytest tests/faults tests/serving

clean: ## Remove what was set up
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("deployledger needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt --upgrade pip

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[audit,onnx,batch]'
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[all]' --group dev
	@touch $@ .venv/demo
