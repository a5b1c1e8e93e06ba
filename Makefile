# Set-up, demo and tests. Each target does what set-up it needs: `make demo` works in a fresh clone.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-full lint bench lock

venv: .venv/ready

# The lock is the whole closure, hence --no-deps: pip need not resolve, and every file is checked by its hash.
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "kit needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: venv
	$(BIN)/kit demo

test: venv
	$(BIN)/python -m pytest

test-full: venv
	$(BIN)/python -m pytest -m ""

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python tests/benchmarks/bench.py

# Resolve again after changing pyproject.toml; names no index.
lock: venv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o requirements.lock
