# make demo    the chat example on 127.0.0.1:$PORT
# make test    everything that a change must pass; sets up what it needs on the first run
# make help    the rest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PORT ?= 8000
VENV ?= .venv
# The first one that runs and is new enough; a pyenv shim may exist and run nothing.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
JS := $(wildcard tests/js/package.json)

# pyright runs on the node that the tests use, instead of fetching one of its own.
export PYRIGHT_PYTHON_GLOBAL_NODE := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Not a word about versions of MkDocs that pyproject.toml keeps out.
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo setup tools lint ruff mypy pyright test first-minutes bench cluster fuzz autobahn docs docs-serve build clean

help:
	@sed -n 's/^# make /make /p; s/^## //p' Makefile

# Each stamp is a step of the set-up that is done, and depends on the one before it: pip is never run twice at once.
$(STAMPS)/venv:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) install --upgrade 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/venv
	@echo "installing roomwire[all]"
	@$(PIP) install --editable '.[all]'
	@touch $@

$(STAMPS)/docs: $(STAMPS)/package
	@echo "installing MkDocs"
	@$(PIP) install --editable '.[all,docs]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/docs
	@echo "installing the test and lint dependencies"
	@$(PIP) install --editable '.[all,docs]' --group dev
	@touch $@

$(STAMPS)/tools: scripts/tools.sh $(STAMPS)/dev
	@scripts/tools.sh $(BIN)
	@touch $@

$(STAMPS)/js: $(JS) $(STAMPS)/tools
	@[ -z "$(JS)" ] || { echo "installing the packages of tests/js" && \
		npm install --prefix tests/js --no-audit --no-fund --no-package-lock --loglevel=error; }
	@touch $@

$(STAMPS)/bench: benchmarks/peers/socketio/package.json $(STAMPS)/js
	@echo "installing the dependencies of the benchmarks"
	@$(PIP) install --group bench
	@npm install --prefix benchmarks/peers/socketio --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

demo: $(STAMPS)/package
	@cd examples/chat && exec $(abspath $(BIN))/roomwire dev app:app --port $(PORT)

## make setup   the virtual environment, the servers, the browser and the node packages of the tests
setup: $(STAMPS)/js

## make tools   Redis, Chromium, node, nginx, HAProxy and Caddy, where they are missing
tools: $(STAMPS)/dev
	@scripts/tools.sh $(BIN)

## make lint    ruff, mypy, pyright
lint: setup
	@$(MAKE) --jobs=3 ruff mypy pyright

ruff:
	@echo "ruff" && $(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .

mypy:
	@echo "mypy" && $(BIN)/mypy

pyright:
	@echo "pyright" && PATH="$(abspath $(BIN)):$$PATH" VIRTUAL_ENV="$(abspath $(VENV))" \
		$(BIN)/python scripts/verify_types.py roomwire

test: lint
	@scripts/pytest.sh $(BIN)

## make first-minutes   the tutorial's three commands with a stopwatch, in 60 s on a machine that does nothing else
first-minutes: $(STAMPS)/dev
	@$(BIN)/python scripts/first_five_minutes.py

## make bench   the benchmarks, with the table of ratios at the end; ARGS go to pytest
bench: $(STAMPS)/bench
	@$(BIN)/python -m pytest $(if $(filter benchmarks/%,$(ARGS)),,benchmarks) $(ARGS)

## make cluster   every fault of a cluster at full size, on Redis and NATS, and a table; ARGS go to tests.cluster
cluster: setup
	@$(BIN)/python -m tests.cluster $(ARGS)

## make fuzz    a million inputs for everything that reads a stranger's bytes; ARGS go to tests.fuzz
fuzz: setup
	@$(BIN)/python -m tests.fuzz $(ARGS)

## make autobahn   the WebSocket conformance suite on every shell; SET is core (default), quick, deflate or all
autobahn: $(STAMPS)/dev
	@$(BIN)/python scripts/autobahn.py $(SET) $(ARGS)

## make docs    the documentation as a site in site/; any warning is an error
docs: $(STAMPS)/docs
	@$(BIN)/mkdocs build --quiet --strict && echo "site/index.html"

## make docs-serve   the same on 127.0.0.1:$PORT, made anew when a page changes
docs-serve: $(STAMPS)/docs
	@$(BIN)/mkdocs serve --dev-addr 127.0.0.1:$(PORT)

## make build   sdist and wheel in dist/
build: $(STAMPS)/dev
	@$(BIN)/python -m hatchling build

## make clean   all that the above has made
clean:
	rm -rf $(VENV) dist build site tests/js/node_modules benchmarks/peers/socketio/node_modules .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
