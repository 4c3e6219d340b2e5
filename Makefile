# Everything a person does here, by name: `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup sweep test test-all cluster-test check ui dashboard study figures docs bench torture clean

help: ## list what there is; every program, as python -m nca.sweep or analysis.gallery, has --help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | column -t -s '|'

setup: $(READY) ## make .venv with the pinned packages

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "error: Python 3.11 to 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

sweep: $(READY) ## a short real sweep: roundleaf, three trials, a few minutes; SWEEP='KEY=VALUE ...' adds to its command
	$(BIN)/python -m nca.sweep -m texture=roundleaf experiment=quick sweep.study=quick $(SWEEP)

# A thread each: processes that share the cores with two threads each wait for each other, thrice as long.
pytest = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/cluster

test: $(READY) ## run the tests, but for the slow ones: minutes; PYTEST='tests/nca -x' runs a part
	$(pytest) -m 'not slow' $(PYTEST)

test-all: $(READY) ## run all tests but those of a cluster
	$(pytest) $(PYTEST)

cluster-test: $(READY) ## run the tests with a Ray cluster, a PostgreSQL server and an MLflow server, which they start
	$(BIN)/python -m pytest -n 3 --dist loadfile tests/cluster --ignore tests/cluster/test_docs.py $(PYTEST)
	$(BIN)/python -m pytest tests/cluster/test_docs.py $(PYTEST) # alone, for it stops every Ray of this machine

check: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

ui: $(READY) ## MLflow on loopback; SERVE='port=5055 runs_dir=FOLDER' gives another port or folder
	@$(BIN)/python -m nca.serve ui $(SERVE)

dashboard: $(READY) ## Optuna dashboard on loopback, with images; SERVE= as for ui
	@$(BIN)/python -m nca.serve dashboard $(SERVE)

# The study of docs/study.md; STUDY holds more words for every sweep.
comma := ,
PLANTS := roundleaf orchid_petal alocasia snake_plant
PRESETS := spots labyrinth worms
RUNS_DIR ?= mlruns
STUDY_OUT ?= build/study
trials = $(BIN)/python -m nca.sweep -m sweep.objectives=[final_distance] executor.threads=1 runs_dir=$(RUNS_DIR) $(1) $(STUDY)
budget_of_distill := model=distill loss=sliced train.steps=1500 train.drop_steps=[900,1300]
budget_of_munca := model=munca loss=sliced train.steps=3000 train.drop_steps=[1800,2600]
distill = $(call trials,$(budget_of_distill) $(1))
munca = $(call trials,$(budget_of_munca) $(1))
srnca = $(call trials,features=random_filters train.size=64 train.steps=3000 $(1))
fixed = $(call distill,experiment=$$set search=fixed train.learning_rate=3e-3 train.max_ca_steps=32 $(1))
fifty := sampler=random texture=roundleaf sweep.n_trials=50 sweep.seed=50 seed=1000
ON_PLANTS := texture=$(subst $() ,$(comma),$(PLANTS))
STUDIES := $(PLANTS:%=%-distill-sliced-patches) roundleaf-srnca roundleaf-fifty roundleaf-fifty-munca roundleaf-seeds \
	$(foreach set,set5 set8,$(PLANTS:%=%-$(set)) $(PRESETS:%=gray_scott-%-$(set)))

study: $(READY) ## train the trials of docs/study.md, some hours; goes on where it was
	$(call distill,experiment=ten_sets $(ON_PLANTS))
	$(call distill,$(fifty) sweep.study=roundleaf-fifty)
	$(call munca,$(fifty) sweep.study=roundleaf-fifty-munca)
	$(call srnca,experiment=ten_sets texture=roundleaf sweep.study=roundleaf-srnca)
	set -e; for set in set5 set8; do \
		$(call fixed,$(ON_PLANTS) "sweep.study=\$${texture.name}-$$set"); \
		for preset in $(PRESETS); do \
			$(call fixed,texture=gray_scott texture.preset=$$preset sweep.study=gray_scott-$$preset-$$set); \
		done; \
	done
	$(call distill,experiment=ten_sets texture=roundleaf sweep.study=roundleaf-seeds sweep.n_trials=5 sweep.repeats=3)
	mkdir -p $(dir $(STUDY_OUT))
	$(BIN)/python -m analysis.export study=$(subst $() ,$(comma),$(strip $(STUDIES))) out=$(STUDY_OUT) runs_dir=$(RUNS_DIR)

figures: $(READY) ## draw every figure of docs/study.md again from its tables
	$(BIN)/python -m analysis.report exported=docs/study by=distance_at_1000 out=docs/study/figures
	$(BIN)/python -m analysis.report exported=docs/study study=roundleaf-fifty-munca by=distance_at_1000 out=docs/study/figures-munca

docs: $(READY) ## the documents as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo build/site/index.html

bench: $(READY) ## time and memory against the reference algorithm, side by side; BENCH=--quick takes half a minute
	$(BIN)/python -m benchmarks.table $(BENCH)

torture: $(READY) ## kill sweeps N times at random moments (N=60 SEED=1), and check what they leave
	$(BIN)/python -m tests.integration.torture $(or $(N),60) $(or $(SEED),1) build/torture-$(or $(SEED),1)

clean: ## delete caches and builds; records in mlruns/ and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
