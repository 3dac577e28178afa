# One command each: `make setup`, `make demo`, `make test`, `make test-full`, `make lint`, `make bench`, `make replay`.
# Every target first makes sure that the virtual environment and the local servers' binaries are there.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
# Tests wait more than they compute: one worker more than the two processors they are meant for.
JOBS ?= 3
STAMP := $(VENV)/.installed

.PHONY: setup demo lint test test-full bench replay crash clean

setup: $(STAMP)
	@$(VENV)/bin/python -m replicator.binaries

$(STAMP): pyproject.toml
	@PYTHON="$(PYTHON)" bash .ci/venv $(VENV)
	@touch $@

demo: setup
	@$(VENV)/bin/replicator demo

lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy $(wildcard replicator tests bench)

test: lint
	$(VENV)/bin/python -m pytest -n $(JOBS) -m "not full and not slow"

test-full: lint
	$(VENV)/bin/python -m pytest -n $(JOBS)

bench: setup
	@$(VENV)/bin/python -m bench

replay: setup
	@$(VENV)/bin/python -m tests.replay $(WORDS)

# Kills at every edge between stages, repeated; cut links; processes that fight for one pipeline. About half an hour.
crash: setup
	$(VENV)/bin/python -m pytest tests/faults tests/property/test_pipeline.py tests/integration/test_fencing.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
