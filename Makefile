# Everything that a clean clone needs: python3 (3.11 or newer), git, make. `make` alone explains itself.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first interpreter on the PATH that is new enough; PYTHON=/some/python overrides.
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$each" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pytest workers: a number, or `auto` for one a core
JOBS ?= auto
PYTEST_ARGS ?=
# demo: shares, paillier, masked or plain
MODE ?= shares
ROUNDS ?= 5
# soak: SEEDS stories from FIRST on; SEED=17 replays one; SOAK_ARGS=--json
SEEDS ?= 10000
FIRST ?= 0
SEED ?=
# chaos: committee size
N ?= 4
# A folder of torch builds other than the default, e.g. the CPU-only one (the default on Linux brings CUDA along).
TORCH_INDEX_URL ?=

# The venv's programs come first, so that npm and node are found there where the machine has none.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

##@ Use

.PHONY: demo
demo: $(READY) ## A whole federation on this machine: MODE=shares|paillier|masked|plain ROUNDS=5 DEMO_ARGS=...
	$(BIN)/python -m scripts.demo --mode $(MODE) --rounds $(ROUNDS) $(DEMO_ARGS)

.PHONY: venv
venv: $(READY) ## Make or refresh .venv (the other targets do it by themselves)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "koinon needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) \
		|| { echo "python's venv module is missing (Debian: apt-get install python3-venv)" >&2; exit 2; }
	@# torch comes first and alone, so that whichever build this machine offers stays the one that is used
	$(BIN)/pip install -q $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) \
		"$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@command -v npm >/dev/null || { echo "no npm here: taking Node from PyPI"; \
		$(BIN)/pip install -q -c constraints.txt -e '.[chain]'; }
	@touch $@

##@ Verify

.PHONY: check
check: $(READY) ## Format, lint, types, import rules, and the committed contract artifacts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.compile --check

.PHONY: test
test: $(READY) ## All tests that need no Docker engine: JOBS=auto PYTEST_ARGS=...
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile -m "not compose" --durations 10 --durations-min 2 $(PYTEST_ARGS)

.PHONY: test-compose
test-compose: ## The containers under faults: needs a Docker engine, compose v1 or v2, and python3
	"$(PYTHON)" scripts/compose_test.py $(COMPOSE_ARGS)

.PHONY: bench
bench: $(READY) ## Every benchmark, scripts/bench*.py; tables on standard output
	@for each in scripts/bench*.py; do \
		test -f "$$each" || { echo "no benchmark yet"; exit 2; }; \
		echo "== $$each"; $(BIN)/python -m "scripts.$$(basename "$$each" .py)" $(BENCH_ARGS); done

BASELINES := .venv-baselines
JSON ?=

.PHONY: bench-privacy
bench-privacy: $(READY) $(BASELINES)/.ready ## The privacy modes beside phe, TenSEAL and Flower's SecAgg+: JSON=FILE BENCH_ARGS=--quick
	$(BIN)/python -m scripts.bench_privacy --baselines $(BASELINES)/bin/python $(if $(JSON),--json $(JSON)) $(BENCH_ARGS)

$(BASELINES)/.ready: scripts/baselines.txt
	"$(PYTHON)" -m venv $(BASELINES)
	$(BASELINES)/bin/pip install -q $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) \
		"$$(grep '^torch==' constraints.txt)"
	$(BASELINES)/bin/pip install -q -r scripts/baselines.txt
	@touch $@

DATA ?= data/cifar10

.PHONY: bench-rounds
bench-rounds: $(READY) $(BASELINES)/.ready ## Whole rounds in each mode, and Flower's, about 15 minutes: DATA=cifar10-folder JSON=FILE BENCH_ARGS=...
	$(BIN)/python -m scripts.bench_rounds --data-dir $(DATA) --flower $(BASELINES)/bin/python $(if $(JSON),--json $(JSON)) $(BENCH_ARGS)

.PHONY: bench-consensus
bench-consensus: $(READY) ## How fast committees of 4 to 13 order, about 4 minutes: JSON=FILE BENCH_ARGS=...
	$(BIN)/python -m scripts.bench_consensus $(if $(JSON),--json $(JSON)) $(BENCH_ARGS)

.PHONY: attacks
attacks: $(READY) ## Attack every privacy mode with what each adversary sees: JSON=FILE ATTACKS_ARGS=--quick
	$(BIN)/python -m scripts.attacks $(if $(JSON),--json $(JSON)) $(ATTACKS_ARGS)

.PHONY: soundness
soundness: $(READY) ## Cheat in every way that we know of, and count what replicas refuse: JSON=FILE SOUNDNESS_ARGS=--tries=1000
	$(BIN)/python -m scripts.soundness $(if $(JSON),--json $(JSON)) $(SOUNDNESS_ARGS)

.PHONY: soak
soak: $(READY) ## Simulate committees in bad weather: SEEDS=1000000 FIRST=0, or SEED=17 to replay one
	$(BIN)/python -m tests.simulation.run $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST)) $(SOAK_ARGS)

.PHONY: twins
twins: $(READY) ## Every scenario of a duplicated replica (90 minutes of CPU): TWINS_ARGS="--family views --first 0 --count 1000"
	$(BIN)/python -m tests.simulation.twins $(TWINS_ARGS)

.PHONY: chaos
chaos: $(READY) ## Faults done to real replica processes: N=4 CHAOS_ARGS="--only kill-9,loss-30", or "--minutes 60"
	$(BIN)/python -m scripts.chaos --replicas $(N) $(CHAOS_ARGS)

##@ Maintain

.PHONY: format
format: $(READY) ## Rewrite the Python files as `make check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: artifacts
artifacts: $(READY) ## Compile the contracts again, into contracts/artifacts
	$(BIN)/python -m scripts.compile

.PHONY: clean
clean: ## Remove what builds, tests and demos left; .venv stays
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove .venv and the fetched tools as well
	rm -rf $(VENV) $(BASELINES) .cache .node

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile
