# Everything a person does here, by name: `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup sweep test check ui dashboard bench torture clean

help: ## list what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' | column -t -s '|'

setup: $(READY) ## make .venv with the pinned packages

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

sweep: $(READY) ## a short real sweep: roundleaf, three trials, a few minutes
	$(BIN)/python -m nca.sweep -m texture=roundleaf experiment=quick sweep.study=quick $(SWEEP)

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

check: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

ui: $(READY) ## MLflow on loopback
	@$(BIN)/python -m nca.serve ui $(SERVE)

dashboard: $(READY) ## Optuna dashboard on loopback, with images
	@$(BIN)/python -m nca.serve dashboard $(SERVE)

bench: $(READY) ## time and memory against the reference algorithm, side by side
	$(BIN)/python -m benchmarks.table

torture: $(READY) ## kill sweeps N times at random moments (N=60 SEED=1), and check what they leave
	$(BIN)/python -m tests.integration.torture $(or $(N),60) $(or $(SEED),1) build/torture-$(or $(SEED),1)

clean: ## delete caches and builds; records in mlruns/ and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
