# Sets up its own environment in .venv, and runs what a change has to pass.
# Needs make, Python 3.11 or newer, and a package index that pip reaches.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Two halves side by side: the core's tests compute, most others wait, so that together they take as long as the longer.
HALF := tests/core tests/simulation tests/chaos tests/crashpoints tests/fuzz tests/endurance
TESTS = out=$$(mktemp); $(BIN)/python -m pytest $(HALF) >$$out 2>&1 & half=$$!; \
  $(BIN)/python -m pytest $(addprefix --ignore=,$(HALF)); rest=$$?; \
  wait $$half; status=$$?; cat $$out; rm -f $$out; exit $$((status + rest))

.DEFAULT_GOAL := help
.PHONY: help setup demo test check simulate chaos docs clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST))
	@echo "  PYTHON=...    the interpreter to make .venv with (now: $(PYTHON))"

setup: $(READY) ## make .venv with everything in it (the other targets do so by themselves)
	@echo "$(VENV) is ready"

demo: $(READY) ## three TensorFlow sessions handed over on this host's CPU, every output row verified
	@$(BIN)/python examples/digits/demo.py

test: $(READY) ## the tests
	@$(TESTS)

check: $(READY) ## formatter, linter, strict types, tests: what a change has to pass
	@echo "ruff format"; $(BIN)/ruff format --check --quiet . || { echo "check: not formatted; run $(BIN)/ruff format" >&2; exit 1; }
	@echo "ruff check"; $(BIN)/ruff check --quiet .
	@echo "mypy"; $(BIN)/mypy --no-error-summary
	@echo "documents"; $(BIN)/python -m daemon.docs --check
	@echo "pytest"; $(TESTS)

RUNS ?= 200
SEED ?= 0
simulate: $(READY) ## RUNS whole worlds with faults through the core, from SEED on (docs/reliability.md)
	@$(BIN)/python -m tests.simulation --runs $(RUNS) --seed $(SEED)

SECONDS ?= 60
OUT ?= chaos/out
chaos: $(READY) ## real sessions for SECONDS, with faults drawn from SEED (random where none is given); every row counted
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) --out $(OUT) $(if $(filter-out file,$(origin SEED)),--seed $(SEED))

docs: $(READY) ## write the generated parts of the documentation anew
	@$(BIN)/python -m daemon.docs

clean: ## remove what runs and tools left behind (not .venv)
	@rm -rf build dist demo/out bench/out chaos/out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Made anew when pyproject.toml changes; an environment that was left half made, or has too old a Python, is replaced.
$(READY): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "setup: no '$(PYTHON)' here; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "setup: '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1), 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "setup: '$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	  echo "setup: making $(VENV) with $$("$(PYTHON)" -V)"; "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "setup: installing into $(VENV) (TensorFlow is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[worker,demo,dev]' || { \
	  echo "setup: pip could not install (above); TensorFlow has no wheels for the newest Pythons: try make PYTHON=python3.12" >&2; exit 1; }
	@touch $@
