# Every target makes its own set-up: a virtual environment in .venv with the pinned versions of requirements.lock.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
RUNS   ?= runs
WORKERS ?= 2

# One thread a test worker: two workers with two threads each would fight for two cores.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest

.DEFAULT_GOAL := help

$(VENV)/.ready: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up $(VENV) (once, a few minutes) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready  ## make the virtual environment

.PHONY: demo
demo: setup  ## train ResNet18 and FarkasNet18, with and without batch norm, on digits; print the table
	@$(PY) -m farkas_exp experiment=demo runs_dir=$(RUNS)/demo $(ARGS)

.PHONY: test
test: setup  ## the tests, in a few minutes
	$(PYTEST) -n $(WORKERS) $(ARGS)

.PHONY: test-slow
test-slow: setup  ## the heavier tests
	$(PYTEST) -m slow $(ARGS)

.PHONY: lint
lint: setup  ## format check, lint and types
	$(VENV)/bin/ruff format --check farkas_exp tests scripts
	$(VENV)/bin/ruff check farkas_exp tests scripts
	$(VENV)/bin/pyright

.PHONY: wheel
wheel: setup  ## build the wheel into dist/
	$(PY) -m build --wheel --no-isolation

.PHONY: lock
lock:  ## resolve requirements.in into requirements.lock, for every platform
	uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate requirements.in --output-file requirements.lock

.PHONY: clean
clean:  ## remove what the targets made, but not the runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

.PHONY: help
help:  ## this list
	@echo "make TARGET"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: soak
soak: setup  ## 50 SIGKILLs at random moments over a small sweep on two workers: nothing lost, nothing done twice
	PYTHONPATH=. OMP_NUM_THREADS=1 $(PY) scripts/soak.py $(ARGS)
