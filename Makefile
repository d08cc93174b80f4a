# Two commands for a new machine with Python and make: `make parity` runs the main job, `make test` the tests.
# Each sets up .venv first; a second call finds it done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help parity test test-slow fuzz mutants bench study zoo zoo-sample zoo-yolo check lint types arrows pages clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

parity: $(READY)  ## compare all implementations (ARGS="--runner torch ..." chooses)
	$(BIN)/eca-multi parity $(ARGS)

# Two processes, of one thread each: two of many threads would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Keras has one backend per process, so its tests run once for each.
test: $(READY)  ## run the tests on every framework and Keras backend (ARGS= goes to pytest)
	KERAS_BACKEND=tensorflow $(PYTEST) --dist loadfile $(ARGS)
	KERAS_BACKEND=jax $(PYTEST) --dist loadfile -m keras $(ARGS)
	KERAS_BACKEND=torch $(PYTEST) --dist loadfile -m keras $(ARGS)

test-slow: $(READY)  ## run the tests that `make test` leaves out
	$(PYTEST) --dist worksteal --slow -m slow $(ARGS)

fuzz: $(READY)  ## read 100,000 broken files of every format (ARGS="--seed 7"), half an hour
	$(BIN)/python tests/support/fuzz_readers.py --inputs 100000 $(ARGS)

mutants: $(READY)  ## put seeded faults into the package and see the default tests fail (ARGS="--only NAME")
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/run_seeded_faults.py $(ARGS)

bench: $(READY)  ## measure the layers and write docs/speed.md, about half an hour
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/layers_torch.py --memory --out docs/measured
	$(BIN)/python benchmarks/layers_torch.py --compiled --shape 8,512,28,28 --shape 32,256,56,56 --out docs/measured
	$(BIN)/python benchmarks/inside_resnet.py --out docs/measured
	$(BIN)/python benchmarks/causal.py --out docs/measured
	$(BIN)/python benchmarks/processes.py --out docs/measured
	$(BIN)/python benchmarks/layers_jax.py --out docs/measured
	$(BIN)/python benchmarks/layers_keras.py --out docs/measured
	$(BIN)/python benchmarks/import_time.py --out docs/measured
	$(BIN)/python benchmarks/speed_page.py

study: $(READY)  ## train small networks with each kind of attention and write docs/study.md, about half an hour
	PYTHONPATH=$(CURDIR) $(BIN)/python -m benchmarks.study $(ARGS)

# Packages that nobody here wrote: an environment of their own, which sees this one's.
ZOO := .venv-zoo
ZOO_PYTHON = PYTHONPATH=$(CURDIR) $(ZOO)/bin/python -m benchmarks.zoo

zoo: $(ZOO)/.ready  ## put ECA into the networks of other packages and write docs/zoo.md, about two hours
	$(ZOO_PYTHON) $(ARGS)

zoo-sample: $(ZOO)/.ready  ## the same for 30 of these networks, without the page
	$(ZOO_PYTHON) --sample $(ARGS)

zoo-yolo: $(ZOO)/.ready  ## run docs/yolo.md and the tests of eca_multi.ultralytics in the zoo's environment
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(ZOO)/bin/python -m pytest tests/ultralytics --slow $(ARGS)

check: lint types arrows pages  ## lint, format, types, the arrows between packages, and the pages

# .pre-commit-config.yaml runs each of these; tests/ground/test_tools.py compares the lists.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

arrows: $(READY)
	$(BIN)/lint-imports

pages: $(READY)
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(ZOO) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(ZOO)/.ready: constraints-zoo.txt $(READY)
	$(PYTHON) -m venv $(ZOO)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$($(ZOO)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/first_environment.pth
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-zoo.txt
	touch $@
