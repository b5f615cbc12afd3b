# Needs Python 3.11 (or newer) and make; everything else comes from PyPI into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo dev test lint types contracts check schema wheel bench bench-writers bench-latency clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is older. Try: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "The venv module is missing. On Debian: apt-get install python3-venv"; exit 2; }
	@echo "Installing into $(VENV) (once) ..."
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## start Postgres, Valkey and the dispatcher, send events through, print the verdict
	@$(BIN)/dispatcher demo

dev: $(STAMP) ## Postgres and Valkey to develop against, data kept in .dispatcher-dev
	@$(BIN)/dispatcher dev

test: $(STAMP) ## every test, against real Postgres and Valkey
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: format and rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

contracts: $(STAMP) ## imports go down only
	@$(BIN)/lint-imports

check: lint types contracts test ## all of the above

schema: $(STAMP) ## write sql/schema.sql from the migrations
	@$(BIN)/python -m tests.dump_schema

wheel: $(STAMP) ## build the wheel and try it outside the checkout
	@$(BIN)/python .ci/try_wheel.py

bench-writers: $(STAMP) ## what the doorbell costs 32 durable writers
	@$(BIN)/python -m bench writers

bench-latency: $(STAMP) ## commit to consumer at a steady rate
	@$(BIN)/python -m bench latency

clean: ## remove the venv and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
