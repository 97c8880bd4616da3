# Every command makes what it needs first; what is there already is not made again (stamp files in .venv).

# What is searched, and where: configs/scenes_search.py in runs/scenes.
CONFIG = configs/scenes_search.py
WORKDIR = runs/$(patsubst %_search,%,$(basename $(notdir $(CONFIG))))
# Processes that run tests, a file in each at a time, in the order of tests/conftest.py: the longest first.
JOBS = 2

# The newest Python that runs of those that the requirement lists were tried on, else any that is new enough.
# A command that exists need not run (pyenv's shims), so each is tried.
PYTHONS = $(or $(PYTHON),python3.12 python3.11 python3 python3.13 python)
NEEDED = import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))

# Inside a container the driver's version can be read even where the container was given no GPU, hence /dev.
GPU := $(shell { nvidia-smi -L || { test -e /proc/driver/nvidia/version && ls /dev/nvidia[0-9]*; }; } >/dev/null 2>&1 && echo yes)
RUNTIME = $(if $(GPU),requirements.txt,requirements-cpu.txt)
# Huge pages: glibc alone reads this, and without it a third of a training step goes to clearing small ones.
PLATFORM = $(if $(GPU),,JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} GLIBC_TUNABLES=$${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1})

BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement
RUNTIME_STAMP = .venv/installed-$(RUNTIME)
DEV_STAMP = .venv/installed-requirements-dev.txt

.DELETE_ON_ERROR:
.PHONY: help search test format clean

help:  ## print this list (the default)
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

search: $(RUNTIME_STAMP)  ## search cells on procedural street scenes; CONFIG=..., WORKDIR=... change what and where, ARGS=... adds flags
	$(PLATFORM) $(BIN)/python run.py --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

test: $(DEV_STAMP)  ## the whole gate: format, lint, types, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder

format: $(DEV_STAMP)  ## rewrite the files as the gate wants them
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

clean:  ## remove the environment, all caches and what was built; runs/ stays
	rm -rf .venv .jax_cache .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEV_STAMP): requirements-dev.txt pyproject.toml $(RUNTIME_STAMP)
	$(PIP) $<
	@touch $@

$(RUNTIME_STAMP): $(RUNTIME) pyproject.toml | $(BIN)/pip
	@echo 'installing $(RUNTIME) into .venv: $(if $(GPU),3.3 GB with CUDA,0.2 GB), about a minute'
	$(PIP) $(RUNTIME)
	@touch $@

# pip is the last thing that venv makes, so an interrupted attempt is repaired by the next.
$(BIN)/pip:
	@for python in $(PYTHONS); do \
	  if "$$python" -c '$(NEEDED)' >/dev/null 2>&1; then exec "$$python" -m venv .venv; fi; \
	done; \
	echo 'no Python >= 3.11 with the module venv (tried: $(PYTHONS)); name one: make PYTHON=/path/to/python3.12' >&2; \
	exit 2
