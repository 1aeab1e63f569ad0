# Python 3.10+ and make are all that is needed: every target sets up what it uses.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --root-user-action=ignore --constraint constraints.txt
JOBS ?= 2
SPEC ?= specs/cogvlm.toml

.PHONY: demo test test-all lint status bench clean

# pip's output is shown only when it fails
quiet = $(1) > $(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml setup.py constraints.txt
	@echo "installing into $(VENV)"
	@$(call quiet,$(PIP) --editable '.[demo]')
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml setup.py constraints.txt
	@echo "installing into $(VENV) for development"
	@$(call quiet,$(PIP) --editable '.[dev]')
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	@echo "installing what benchmarks are measured beside into $(VENV)"
	@$(call quiet,$(PIP) --editable '.[bench]')
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python scripts/demo.py $(SPEC)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: lint
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slow' -q

test-all: lint
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

# every test, and what each proves of which spec: docs/status.md
status: lint
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q --status
	@$(BIN)/python -m tests.status

bench: $(VENV)/.bench
	@$(BIN)/python -m benchmarks

clean:
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
