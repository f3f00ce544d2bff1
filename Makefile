# Everything a developer runs. `make` alone lists it.

PYTHON ?= python3
PORT ?= 8000
LOCK_FLAGS ?=
WORKERS ?= logical --maxprocesses 4

BIN := .venv/bin
PRODUCT := .venv/.product
DEV := .venv/.dev
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK := $(BIN)/uv pip compile pyproject.toml --no-config --system-certs --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --group build $(LOCK_FLAGS)

# $(call fetch,PROGRAM,PACKAGE): if it is missing, root gets it on Debian; nobody else is meddled with.
fetch = { command -v $(1) >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y --no-install-recommends $(2) >/dev/null; }; }

# Whoever sets it elsewhere means images: here processes start by the hundred, and each would compile the product anew.
unexport PYTHONDONTWRITEBYTECODE

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test test-browser test-crash bench bench-quick check lint ci openapi handbook lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(PRODUCT)  ## .venv with the product: .venv/bin/token-broker runs

demo: $(PRODUCT)  ## a sandbox Versature and a broker on PORT (8000), until Ctrl-C
	@exec $(BIN)/python -m sandbox.demo --port $(PORT)

test: $(DEV)  ## all tests but those that need a browser, kill things or take long
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not browser and not crash"

test-browser: $(DEV)  ## the connect flow in a real Chromium
	@$(call fetch,chromium,chromium) \
		|| { echo "make test-browser needs chromium on PATH: install your system's package (Debian: apt-get install chromium)" >&2; exit 1; }
	@$(BIN)/python -m pytest -m browser tests/e2e

test-crash: $(DEV)  ## the crash matrix, alert drills and all that takes long: processes killed, servers lost, answers dropped
	@$(call fetch,promtool,prometheus) \
		|| echo "without promtool the alert drills are skipped (Debian: apt-get install prometheus)" >&2
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m crash || { [ $$? = 1 ] \
		&& echo "once more, without a crowd: here real processes have to meet at real moments" >&2 \
		&& $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m crash; }

bench: $(DEV)  ## every performance budget, measured (about eight minutes; use an idle machine)
	@$(BIN)/python -m bench

bench-quick: $(DEV)  ## that the bench works, under a minute; its figures mean nothing
	@$(BIN)/python -m bench --quick --report .artefacts/bench-quick.json

check: lint  ## formatting, lint, types, import rules, security, drift of API and schema
	@$(BIN)/python -m pytest -q tests/house

lint: $(DEV)  ## check without its tests, which `make test` runs too
	@$(BIN)/ruff format --quiet --check . || { echo "run: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml service sandbox
	@$(BIN)/token-broker openapi | diff -u openapi.json - || { echo "openapi.json is stale: make openapi" >&2; exit 1; }
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml

ci:  ## what .ci/run runs: check, test, test-crash, bench-quick, test-browser
	@$(MAKE) lint
	@$(call fetch,curl,curl) && $(call fetch,nginx,nginx) && $(call fetch,node,nodejs) && $(call fetch,promtool,prometheus) \
		|| echo "tests that lack curl, nginx, node or promtool are skipped, and say so" >&2
	@$(MAKE) test
	@$(MAKE) test-crash
	@$(MAKE) bench-quick
	@$(MAKE) test-browser

openapi: $(PRODUCT)  ## write openapi.json anew
	@$(BIN)/token-broker openapi >openapi.json.new
	@mv openapi.json.new openapi.json

handbook: $(DEV)  ## write the generated parts of docs/ anew
	@$(BIN)/python -m tests.house.handbook

lock: $(DEV)  ## write requirements*.txt anew; LOCK_FLAGS=--upgrade moves the versions
	@$(LOCK) --output-file requirements.txt
	@$(LOCK) --group dev --constraint requirements.txt --output-file requirements-dev.txt

clean:  ## remove what setup, tests and tools leave behind
	@rm -rf .venv .artefacts .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .schemathesis openapi.json.new
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed; '$(PYTHON)' is not. Try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv

$(PRODUCT): requirements.txt pyproject.toml | .venv/bin/python
	@echo "Setting up .venv ..."
	@$(PIP) install --require-hashes --requirement requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.txt $(PRODUCT)
	@echo "Setting up .venv for development ..."
	@$(PIP) install --require-hashes --requirement requirements-dev.txt
	@touch $@
