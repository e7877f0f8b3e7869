# Every target installs what it needs; CI runs the same ones (see .ci/run).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What `make demo` and `make up` need is installed, and what all targets need.
SERVICES_STAMP := $(VENV)/.installed-services
STAMP := $(VENV)/.installed
# Package index for torch alone, such as https://download.pytorch.org/whl/cpu; empty for pip's own.
TORCH_INDEX ?=
PROTO := limits tensor pruner encoder llm
LISTEN ?= 127.0.0.1:8000
STARTED := $(shell date +%s)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install fmt lint types imports proto proto-check test test-fast test-e2e test-vllm test-clients images image-vllm test-images demo up bench docs docs-serve ci

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(STAMP)  ## create .venv with all that tests and checks need (TORCH_INDEX=URL: see docs/install.md)

# Where the machine's Python has torch, the environment sees it, unless an index for torch is given.
$(VENV)/pyvenv.cfg:
	@has_torch='import sys, importlib.util; sys.exit(importlib.util.find_spec("torch") is None)'; \
	if [ -z '$(TORCH_INDEX)' ] && $(PYTHON) -c "$$has_torch"; then shared=--system-site-packages; fi; \
	$(PYTHON) -m venv $$shared $(VENV)

# The pin on torch is left out where the machine's torch is used.
$(VENV)/constraints.txt: constraints.txt | $(VENV)/pyvenv.cfg
	@if grep -q 'include-system-site-packages = true' $(VENV)/pyvenv.cfg; then pins='^torch=='; fi; \
	grep -v "$${pins:-^$$}" constraints.txt > $@

$(SERVICES_STAMP): EXTRAS = encoder,llm,gateway,cli
$(STAMP): EXTRAS = dev
$(SERVICES_STAMP) $(STAMP): pyproject.toml setup.py fovea/wire/rans/rans.c $(VENV)/constraints.txt
	@echo "installing fovea[$(EXTRAS)] into $(VENV)"; \
	$(if $(TORCH_INDEX),$(PIP) install --index-url '$(TORCH_INDEX)' "$$(grep -o '^torch==[^ ]*' constraints.txt)" &&) \
	$(PIP) install -c $(VENV)/constraints.txt -e '.[$(EXTRAS)]' && \
	echo "installed in $$(($$(date +%s) - $(STARTED))) s; $(VENV) has $$(du -sm $(VENV) | cut -f 1) MB"
	@touch $(SERVICES_STAMP) $@

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

DOCKER ?= docker
BASE_IMAGE ?= python:3.11-slim
# CUDA=cu130 builds for a GPU. Without CUDA the images have torch for CPUs.
CUDA ?=
IMAGE_TORCH_INDEX ?= $(or $(TORCH_INDEX),https://download.pytorch.org/whl/$(or $(CUDA),cpu))
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE_TAG ?= $(VERSION)$(CUDA:%=-%)

images:  ## the images of the three services (CUDA=cu130 for a GPU)
	@for image in gateway encoder llm; do \
	  echo "fovea-$$image:$(IMAGE_TAG)" && \
	  $(DOCKER) build $(BUILD_FLAGS) --target $$image --tag fovea-$$image:$(IMAGE_TAG) \
	    --build-arg BASE=$(BASE_IMAGE) --build-arg TORCH_INDEX=$(IMAGE_TORCH_INDEX) . || exit 1; \
	done

image-vllm:  ## the image of the LLM service with vLLM, which brings a torch with CUDA
	$(DOCKER) build $(BUILD_FLAGS) --target llm-vllm --tag fovea-llm-vllm:$(VERSION) --build-arg BASE=$(BASE_IMAGE) .

test-images: $(STAMP)  ## builds the images, starts them with the compose files and tests them; needs a container engine, or root on Debian
	PYTHON=$(BIN)/python tests/images/lane/run

demo: $(SERVICES_STAMP)  ## start the three services on the shipped model, ask real questions, stop
	$(BIN)/fovea demo

up: $(SERVICES_STAMP)  ## the three services in the foreground; Ctrl-C stops them (LISTEN=127.0.0.1:8000)
	@exec $(BIN)/fovea up --listen $(LISTEN)

bench: $(STAMP)  ## accuracy by pruner and budget (hours on two cores; OUT=DIR writes it; see benchmarks/README.md)
	$(BIN)/python -m benchmarks.accuracy $(if $(OUT),--out $(OUT))

# The theme says at each build that it will have a successor.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

docs: $(STAMP)  ## the site of docs/ into build/site; a dead link fails
	$(MKDOCS) build --strict --quiet && echo "build/site/index.html"

docs-serve: $(STAMP)  ## the same on http://127.0.0.1:8001, rebuilt at each change
	$(MKDOCS) serve --strict --dev-addr 127.0.0.1:8001

ci: lint types imports proto-check docs test  ## what CI runs
