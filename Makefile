# make repro   set up, run the pipeline, print the results      make test        tests, in some minutes
# make ui      MLflow on localhost                              make test-slow   the others: kills, interpreters, whole runs
# make setup   only create .venv                                make lint        style and types
# make gpu     tests and figures that want a GPU                make bench       benchmarks
# make crash   1 000 kills and faults                           make test-oldest   by the oldest versions allowed

SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 5000
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Without bytecode every stage would compile torch again: 5 s each. Images of Docker often switch it off.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME CONDA_PREFIX PYTHONDONTWRITEBYTECODE

.PHONY: help setup repro test test-slow test-oldest ui bench crash gpu lint format clean
help:
	@sed -n 's/^# \?//p' Makefile | head -5

setup: $(VENV)/.ready

# Where the project stood when .venv was made, if that was elsewhere: what points there is made anew.
MOVED := $(if $(wildcard $(VENV)/.ready),$(filter-out $(CURDIR),$(file <$(VENV)/.ready)))
.PHONY: moved
moved:
	@echo "the project was in $(MOVED) before"
	@test ! -x $(VENV)/bin/python || $(VENV)/bin/python -m venv --without-pip $(VENV)

# uv installs in a fraction of pip's time; where it fails, pip does the same. Its scripts find Python where they lie.
$(VENV)/.ready: pyproject.toml constraints.txt $(if $(MOVED),moved)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sslpipe needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1): try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) (about a minute; 6 GB of packages, most of it torch)"
	@test -x $(VENV)/bin/python || { rm -f $(VENV)/bin/python*; $(PYTHON) -m venv $(VENV); }
	@grep -q '^relocatable' $(VENV)/pyvenv.cfg || echo 'relocatable = true' >> $(VENV)/pyvenv.cfg
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv || true
	@{ test -x $(VENV)/bin/uv && $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt -e '.[pipeline,dev]'; } \
	  || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,dev]'
	@$(VENV)/bin/python -m sslpipe.views.render.cpu
	@$(VENV)/bin/python -m sslpipe.shards.scaling.loops
	@echo "$(CURDIR)" > $@

repro: setup
	@sslpipe check --quiet
	@dvc repro || { echo; echo "The pipeline stopped; the reason is above. Finished stages are kept: make repro goes on from here."; exit 1; }
	@sslpipe sync --lenient
	@sslpipe table

PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
SLOWLY := $(subst -n 2,-n 3,$(PYTEST))# much of it is waiting

test: setup
	@$(PYTEST) -m "not slow" $(TESTS)

test-slow: setup
	@$(SLOWLY) -m slow $(TESTS)

# Views, losses and training by the oldest versions that pyproject.toml allows, in an environment of their own.
OLDEST := $(VENV)/oldest
ESSENTIAL := gpu/test_training.py losses views/test_engine.py views/render/test_reference.py training/core/test_loop.py \
  training/core/test_step.py training/core/test_optim.py
test-oldest: $(OLDEST)/.ready
	@$(OLDEST)/bin/$(PYTEST) -q -m "not slow and not gpu" $(or $(TESTS),$(addprefix tests/,$(ESSENTIAL)))

$(OLDEST)/.ready: $(VENV)/.ready
	@$(PYTHON) -m venv $(OLDEST)
	@$(VENV)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e . \
	  'hypothesis>=6.100' 'numba>=0.68' 'pytest>=8.3' 'pytest-xdist>=3.8' 'scikit-learn>=1.5' 'scipy>=1.13'
	@touch $@

ui: setup
	@sslpipe ui --port $(PORT)

bench: setup
	@for name in views data training evals methods; do echo "== $$name"; python benchmarks/$$name.py || exit 1; done

# What `make test-slow` does 75 times: whatever is killed, cut or refused, the next run ends with the same bytes.
crash: setup
	@SSLPIPE_CRASHES=1000 python -m pytest -q tests/crash

# Everything that wants a GPU, in six minutes, by whatever Python is here: nothing is installed.
gpu:
	@$(if $(wildcard $(VENV)/.ready),python,$(PYTHON)) benchmarks/gpu.py $(GPU)

lint: setup
	@ruff check . && ruff format --check . && mypy

format: setup
	@ruff check --fix . && ruff format .

clean:
	rm -rf data/source.json data/shards data/views data/features models metrics plots runs report .sslpipe
