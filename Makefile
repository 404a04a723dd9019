# Sets up its own environment in .venv, and runs what a change has to pass.
# Needs make, Python 3.11 or newer, and a package index that pip reaches.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Parts side by side, about as long as each other: the core's tests compute, the others mostly wait; then all others.
CORE := tests/core tests/simulation tests/chaos tests/crashpoints tests/fuzz tests/endurance
WHOLE := tests/e2e
WORKER := tests/worker tests/systemd tests/logs
TESTS = out=$$(mktemp -d); pids=; \
  for part in CORE:"$(CORE)" WHOLE:"$(WHOLE)" WORKER:"$(WORKER)"; do \
    $(BIN)/python -m pytest $${part\#*:} >$$out/$${part%%:*} 2>&1 & pids="$$pids $$!"; \
  done; \
  $(BIN)/python -m pytest $(addprefix --ignore=,$(CORE) $(WHOLE) $(WORKER)); status=$$?; \
  for pid in $$pids; do wait $$pid || status=1; done; \
  cat $$out/*; rm -rf $$out; exit $$status

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-systemd test-programs check simulate chaos bench bench-smoke bench-worker bench-gpu install uninstall docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST))
	@echo "  PYTHON=...    the interpreter to make .venv with (now: $(PYTHON))"

setup: $(READY) ## make .venv with everything in it (the other targets do so by themselves)
	@echo "$(VENV) is ready"

demo: $(READY) ## three TensorFlow sessions handed over on this host's CPU, every output row verified
	@$(BIN)/python examples/digits/demo.py

test: $(READY) ## the tests
	@$(TESTS)

test-systemd: $(READY) ## of these, the service and its log in a private systemd (as root)
	@$(BIN)/python -m pytest tests/systemd tests/logs

# PyTorch and JAX would double everybody's $(VENV), and their examples share nothing with TensorFlow's.
PROGRAMS := .venv-programs

test-programs: $(PROGRAMS)/.ready ## of these, the examples for PyTorch and JAX, in an environment of their own
	@$(PROGRAMS)/bin/python -m pytest tests/e2e/test_program_examples.py -k "pytorch or jax"

$(PROGRAMS)/.ready: pyproject.toml | $(READY)
	@echo "test-programs: making $(PROGRAMS) (PyTorch is large: some minutes the first time)"
	@$(BIN)/python -m venv --clear $(PROGRAMS)
	@$(PROGRAMS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[programs,dev]'
	@touch $@

check: $(READY) ## formatter, linter, strict types, tests: what a change has to pass
	@echo "ruff format"; $(BIN)/ruff format --check --quiet . || { echo "check: not formatted; run $(BIN)/ruff format" >&2; exit 1; }
	@echo "ruff check"; $(BIN)/ruff check --quiet .
	@echo "mypy"; $(BIN)/mypy --no-error-summary
	@echo "documents"; $(BIN)/python -m daemon.docs --check
	@echo "pytest"; $(TESTS)

# For everybody on this host, so not with an interpreter of one person's: PYTHON counts where it was named.
HOST = DESTDIR='$(DESTDIR)' PREFIX='$(or $(PREFIX),/usr/local)' \
  PYTHON='$(if $(filter-out file,$(origin PYTHON)),$(PYTHON),/usr/bin/python3)' \
  $(if $(filter-out undefined,$(origin TENSORFLOW)),TENSORFLOW='$(TENSORFLOW)')

RUNS ?= 200
SEED ?= 0
simulate: $(READY) ## RUNS whole worlds with faults through the core, from SEED on (docs/reliability.md)
	@$(BIN)/python -m tests.simulation --runs $(RUNS) --seed $(SEED)

SECONDS ?= 60
OUT ?= chaos/out
chaos: $(READY) ## real sessions for SECONDS, with faults drawn from SEED (random where none is given); every row counted
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) --out $(OUT) $(if $(filter-out file,$(origin SEED)),--seed $(SEED))

bench: $(READY) ## what batond costs and saves beside what people run instead: docs/performance.md (about 3 hours)
	@$(BIN)/python -m bench

bench-smoke: $(READY) ## every part of the benchmark, tiny: whether it runs, not how fast anything is
	@$(BIN)/python -m pytest tests/test_bench_smoke.py

bench-worker: $(READY) ## the built-in worker's speed beside a bare tf.data loop: one part of bench, printed
	@$(BIN)/python -m bench.worker

bench-gpu: $(READY) ## what this host's GPU does to a handover: a table, and bench/out/gpu.json (docs/gpu.md)
	@$(BIN)/python bench/gpu.py

install: ## the service: /opt/batond, commands, units, configuration (DESTDIR, PREFIX, PYTHON, TENSORFLOW: docs/systemd.md)
	@$(HOST) systemd/install.sh venv
	@$(HOST) systemd/install.sh files

uninstall: ## take the service away again; what it keeps of sessions stays
	@$(HOST) systemd/install.sh remove

docs: $(READY) ## write the generated parts of the documentation anew
	@$(BIN)/python -m daemon.docs

clean: ## remove what runs and tools left behind (not .venv, .venv-programs)
	@rm -rf build dist demo/out bench/out chaos/out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)*/*' -prune -exec rm -rf {} +

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
