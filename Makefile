# One command each: `make setup`, `make demo`, `make test`, `make test-full`, `make lint`, `make bench`, `make replay`,
# `make crash`, `make soak`.
# Every target first makes sure that the virtual environment and the local servers' binaries are there.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
# Tests wait more than they compute: one worker more than the two processors they are meant for.
# JOBS: how many.
STAMP := $(VENV)/.installed

.PHONY: setup demo lint test test-full bench replay crash soak clean

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
	$(VENV)/bin/python -m pytest -n $(or $(JOBS),3) -m "not full and not slow"

# Everything, once for each way in which a managed target is set up; what has ended is not run again. Hours.
test-full: lint
	@$(VENV)/bin/python -m tests.profiles --jobs $(or $(JOBS),2) $(PROFILES)

bench: setup
	@$(VENV)/bin/python -m bench

# Both go on where they were stopped (build/*.jsonl); FRESH=1 starts anew, JOBS=2, SHARD=1/4, WORDS='mysql gh-ost'.
replay: setup
	@$(VENV)/bin/python -m tests.replay $(WORDS)

# Kills at every edge between stages, cut links, takeovers: each on every source with ten seeds. Hours.
crash: setup
	@$(VENV)/bin/python -m tests.faults.matrix $(WORDS)

# A state machine over real servers for MINUTES; SEED=N replays one program that a run has printed.
soak: setup
	MINUTES=$(or $(MINUTES),60) $(VENV)/bin/python -m pytest -s --timeout=0 tests/property/test_soak.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
