# Every target sets up what it needs; CI runs the same ones (see .ci/run).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO := limits tensor pruner encoder llm
LISTEN ?= 127.0.0.1:8000

.DEFAULT_GOAL := help
.PHONY: help install fmt lint types imports proto proto-check test test-fast test-e2e test-vllm test-clients demo up bench train ci

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(STAMP)  ## create .venv and install everything (a torch that is there already is used, not fetched)

# Where the machine's Python has torch, the environment sees it and the pin on torch is left out.
$(STAMP): pyproject.toml setup.py constraints.txt fovea/wire/rans/rans.c
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then \
	  $(PYTHON) -m venv --system-site-packages $(VENV) && grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	else \
	  $(PYTHON) -m venv $(VENV) && cp constraints.txt $(VENV)/constraints.txt; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

fmt: $(STAMP)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)  ## style and common mistakes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

imports: $(STAMP)  ## who may import whom
	$(BIN)/lint-imports

proto: $(STAMP)  ## regenerate fovea/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. $(PROTO:%=proto/fovea/v1/%.proto)

proto-check: $(STAMP)  ## the committed generated code is what proto/ says
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=$$out --pyi_out=$$out --grpc_python_out=$$out \
	  $(PROTO:%=proto/fovea/v1/%.proto) && \
	diff -r -x __init__.py -x __pycache__ $$out/fovea/v1 fovea/v1 && echo "fovea/v1 is up to date"

# Each worker runs services of its own. More than eight would start more processes than they save time.
WORKERS := -n logical --maxprocesses 8 --dist loadgroup --no-loadscope-reorder

test: $(STAMP)  ## all tests (minutes)
	$(BIN)/python -m pytest -q $(WORKERS)

test-fast: $(STAMP)  ## without end-to-end and slow tests
	$(BIN)/python -m pytest -q $(WORKERS) -m "not e2e and not slow"

test-e2e: $(STAMP)  ## only the tests that start the real services
	$(BIN)/python -m pytest -q $(WORKERS) -m e2e

VLLM_VENV ?= .venv-vllm

$(VLLM_VENV)/.installed: pyproject.toml $(wildcard tests/vllm/lane/*)
	tests/vllm/lane/install $(VLLM_VENV) $(PYTHON)
	@touch $@

test-vllm: $(VLLM_VENV)/.installed  ## the vllm engine, in an environment of its own (3.5 GB)
	$(VLLM_VENV)/bin/python -m pytest -q tests/vllm

CLIENTS_VENV ?= .venv-clients

$(CLIENTS_VENV)/.installed: $(wildcard tests/clients/lane/* tests/clients/lane/*/*)
	tests/clients/lane/install $(CLIENTS_VENV) $(PYTHON)
	@touch $@

test-clients: $(STAMP) $(CLIENTS_VENV)/.installed  ## OpenAI's clients, lmms-eval and load generators, in environments of their own (5 GB)
	CLIENTS_VENV=$(abspath $(CLIENTS_VENV)) $(BIN)/python -m pytest -q tests/clients

demo: $(STAMP)  ## start the three services on the shipped model, ask real questions, stop
	$(BIN)/fovea demo

up: $(STAMP)  ## the three services in the foreground; Ctrl-C stops them (LISTEN=127.0.0.1:8000)
	@exec $(BIN)/fovea up --listen $(LISTEN)

bench: $(STAMP)  ## accuracy by pruner and budget (hours on two cores; OUT=DIR writes it; see benchmarks/README.md)
	$(BIN)/python -m benchmarks.accuracy $(if $(OUT),--out $(OUT))

ci: lint types imports proto-check test  ## what CI runs
