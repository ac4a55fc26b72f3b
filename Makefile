# Every target makes its own set-up: a virtual environment in .venv with the pinned versions of requirements.lock and
# the package itself, editable. TORCH=cpu leaves the CUDA libraries out; pip must know PyTorch's index of CPU builds.
PYTHON ?= python3
VENV   := .venv
TORCH  ?= $(if $(wildcard $(VENV)/cpu.txt),cpu)
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --quiet --disable-pip-version-check
RUNS   ?= runs
WORKERS ?= 2

# One thread a test worker: two workers with two threads each would fight for two cores. And compiled files are kept
# whatever the shell says: pytest would rewrite every test, and each process of a test compile the package, each time.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(PY) -m pytest

SOURCES := farkas_exp hydra_plugins tests scripts benchmarks setup.py

.DEFAULT_GOAL := help

$(VENV)/.ready: requirements.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ..." >&2; exit 2; }
	@case "$(TORCH)" in ""|cpu) ;; *) echo "error: TORCH=$(TORCH): the choice is cpu, or nothing for the usual build" >&2; exit 2;; esac
	@echo "Setting up $(VENV) (once, a few minutes) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	@grep -vE '^(nvidia-|cuda-|triton==)' requirements.lock > $(VENV)/cpu.txt
	@$(PIP) install --no-deps --requirement $(VENV)/cpu.txt
	@$(PY) -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' 2> /dev/null || { $(PIP) uninstall --yes torch torchvision; \
		echo "error: TORCH=cpu: pip found no CPU build of PyTorch; give it the index of these: make setup TORCH=cpu PIP_EXTRA_INDEX_URL=..." >&2; exit 2; }
else
	@$(PIP) install --requirement requirements.lock
endif
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready  ## make the virtual environment with the package in it; TORCH=cpu: without the CUDA libraries

.PHONY: demo
demo: setup
	@$(PY) -m farkas_exp experiment=demo runs_dir=$(RUNS)/demo $(ARGS)

.PHONY: test
test: setup  ## the tests, in a few minutes
	$(PYTEST) -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: test-slow
test-slow: setup  ## the heavier tests
	$(PYTEST) -m slow $(ARGS)

.PHONY: mutation
mutation: setup  ## deliberate faults in the core, and which the tests miss (hours): ARGS="farkas_exp/training/optimizer.py --most 40"
	@test -d build/mutmut || $(PY) -m pip install --quiet --no-deps --target build/mutmut mutmut==3.8.1 libcst==1.9.0
	@PYTHONPATH=build/mutmut OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) scripts/mutation.py $(ARGS)

.PHONY: lint
lint: setup  ## format check, lint and types
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/pyright

.PHONY: wheel
wheel: setup  ## build the wheel into dist/
	$(PY) -m build --wheel --no-isolation

.PHONY: docs
docs:  ## the documentation as a site in build/site, by an environment of its own; a warning is an error
	@test -x build/mkdocs/bin/mkdocs || { $(PYTHON) -m venv build/mkdocs && build/mkdocs/bin/python -m pip install --quiet \
		--disable-pip-version-check mkdocs==1.6.1 mkdocs-material==9.8.2 mkdocstrings-python==2.0.11 ruff==0.17.5; }
	@mkdir -p build/pages
	@ln -sfn $(addprefix ../../,README.md CHANGELOG.md CONTRIBUTING.md CITATION.cff docs results benchmarks) build/pages
	@NO_MKDOCS_2_WARNING=1 build/mkdocs/bin/mkdocs $(or $(ARGS),build) --strict --config-file docs/mkdocs.yml

.PHONY: lock
lock:  ## resolve requirements.in into requirements.lock, for every platform; pins that still fit stay
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet \
		--disable-pip-version-check uv==0.13.9; }
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate requirements.in --output-file requirements.lock

.PHONY: clean
clean:  ## remove what the targets made, but not the runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

.PHONY: help
help:  ## this list
	@echo "make TARGET"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-31s%s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "experiments, each with ARGS=\"KEY=VALUE ...\" to narrow or change it:"
	@$$(test -x $(PY) && echo $(PY) || echo $(PYTHON)) -m farkas_exp.studies list

.PHONY: soak
soak: setup  ## 50 kills at random moments over a small sweep on two workers: nothing lost, nothing done twice, nothing lives on
	PYTHONPATH=. OMP_NUM_THREADS=1 $(PY) scripts/soak.py $(ARGS)

.PHONY: test-slurm
test-slurm: setup  ## the tests on a real Slurm of one node, installed and started for it (Debian, root; some ten minutes)
	$(PYTEST) -m slurm tests/slurm -s -v $(ARGS)

.PHONY: bench
bench: setup  ## measure the speed of layers, networks, input and trainer side by side, into benchmarks/ (some minutes)
	@$(PY) -m benchmarks $(ARGS)
	@$(PY) -m benchmarks.scaling

.PHONY: bench-gpu
bench-gpu: setup  ## the same on a GPU: eager and recorded steps in three precisions, and its limits (two minutes)
	@$(PY) -m benchmarks.gpu --out benchmarks/gpu.json $(ARGS)

.PHONY: bench-decoding
bench-decoding: setup  ## images/s decoded at each size, and the cores that a GPU needs: ARGS="--root DIR --rate 2500"
	@OMP_NUM_THREADS=1 $(PY) -m benchmarks.decoding $(ARGS)

# Any other target is an experiment: make table1, make table1 ARGS="seed=0 model=resnet18,farkasnet18 epochs=20".
.DEFAULT:
	@$(MAKE) --no-print-directory setup
	@$(PY) -m farkas_exp.studies run $@ runs_dir=$(RUNS) $(ARGS)

.PHONY: sep-moons
sep-moons: sep-moons-table1  ## Separation, Table 1 and the same at 60 layers of 3 units: sep-moons-table1 by its short name

.PHONY: siblings-mini
siblings-mini: setup  ## every experiment of the sibling papers in small, and one page: runs/siblings_mini/siblings.html (18 min on two cores)
	@$(PY) -m farkas_exp.studies mini runs_dir=$(RUNS)/siblings_mini $(ARGS)

.PHONY: figures
figures: setup  ## Figures 1 to 7, as far as there are runs, into $(RUNS)/report
	@mkdir -p $(RUNS)
	@$(PY) -m farkas_exp.report figures runs_dir=$(RUNS) format=png,pdf $(ARGS)

.PHONY: gpu-campaign
gpu-campaign: setup  ## train a list of runs on a GPU that is lent for minutes: ARGS="--minutes 9 --out DIR --go-on DIR"
	@$(PY) scripts/gpu_campaign.py $(ARGS)

.PHONY: gpu-smoke
gpu-smoke: setup  ## try every way of training on a GPU, in two minutes
	@$(PY) scripts/gpu_smoke.py $(ARGS)
