# demo: see it work · test: the suite CI runs · lint · test-slow · bench. Everything lives in .venv.
PYTHON ?= python3
VENV   ?= .venv
# Arguments for pytest and for the benchmark, e.g. `make test ARGS='-k pack'`.
ARGS   ?=
WORKERS ?= 2
# Where `make chain` leaves its runs; default: a temporary folder.
RUNS   ?=

LINKS  := 1-pretrain 2-sft 3-reward 4-dpo 5-ppo
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo chain test test-slow lint format bench docs clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo       a minute, offline, on the embedded model: check, train, evaluate, merge, chat'
	@echo 'make chain      pretrain, fine-tune, reward model, DPO, PPO on the embedded model: two minutes'
	@echo 'make test       the test suite, under five minutes on two cores'
	@echo 'make test-slow  the tests marked slow: kills, parity with transformers and TRL'
	@echo 'make lint       ruff check, ruff format --check, pyright'
	@echo 'make format     ruff format and the fixes ruff is sure of'
	@echo 'make bench      training speed and memory beside transformers.Trainer and TRL (long)'
	@echo 'make docs       write docs/recipe.md anew from the field docs'
	@echo 'make clean      remove .venv and caches'

demo: $(VENV)/.base
	$(BIN)/tunesmith demo $(ARGS)

test: $(VENV)/.dev
	$(PYTEST) -n $(WORKERS) --dist worksteal -m 'not slow' $(ARGS)

test-slow: $(VENV)/.parity
	$(PYTEST) -n $(WORKERS) --dist worksteal -m slow $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chain: $(VENV)/.base
	@folder=$(or $(RUNS),$$(mktemp -d)) && \
	  $(BIN)/tunesmith train $(LINKS:%=chain/%) output.dir=$$folder $(ARGS) && \
	  $(BIN)/tunesmith score $$folder/chain-reward builtin:demo/pairs.jsonl -o $$folder/scores.jsonl

bench: $(VENV)/.parity
	$(BIN)/python bench/train.py $(ARGS)

docs: $(VENV)/.base
	$(BIN)/python docs/recipe.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

# Stamps: an install runs again only when what it installs from has changed.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tunesmith needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)."; \
	  echo "Name another one: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and pinned: a range would fetch the newest build with gigabytes of CUDA packages.
$(VENV)/.base: $(VENV)/.python pyproject.toml constraints.txt
	@echo 'installing tunesmith into $(VENV) (torch first; a few minutes on a new machine)'
	$(PIP) torch==2.13.0
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.parity: $(VENV)/.dev
	$(PIP) -e '.[dev,parity]'
	@touch $@
