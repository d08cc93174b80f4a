# Two commands for a new machine with Python and make: `make parity` runs the main job, `make test` the tests.
# Each sets up .venv first; a second call finds it done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help parity test test-slow check clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

parity: $(READY)  ## compare all implementations (ARGS="--runner torch ..." chooses)
	$(BIN)/eca-multi parity $(ARGS)

# Keras has one backend per process, so its tests run once for each.
test: $(READY)  ## run the tests on every framework and Keras backend (ARGS= goes to pytest)
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest $(ARGS)
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m keras $(ARGS)
	KERAS_BACKEND=torch $(BIN)/python -m pytest -m keras $(ARGS)

test-slow: $(READY)  ## run the tests that `make test` leaves out
	$(BIN)/python -m pytest --slow -m slow $(ARGS)

check: $(READY)  ## lint, format, types, the arrows between packages, and the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
