# Two commands do all the set-up on a machine with Python 3.11 or later, its venv module, and make:
#   make demo    compares LLQR with a tuned baseline, in torch and in JAX, and reports
#   make test    format, lint, types, tests
# Each creates $(VENV) and installs into it first; later runs find it up to date.

PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
PYTEST_ARGS ?= -n 2
BENCHMARK_ARGS ?=

RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
EXTRAS := torch,jax,experiments,baselines,search,ray,test

.DEFAULT_GOAL := help
.PHONY: help demo test benchmark clean

help:
	@echo "make demo        compare LLQR with tuned NadamW on digits and Rosenbrock; DEMO_ARGS as scripts/compare.py"
	@echo "make test        ruff format --check, ruff check, pyright, pytest"
	@echo "make benchmark   cost of a curvature refresh in gradient evaluations, peak memory"
	@echo "make clean       remove $(VENV), builds and caches; results/ stays"
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) DEMO_ARGS PYTEST_ARGS='$(PYTEST_ARGS)' BENCHMARK_ARGS"

demo: $(INSTALLED)
	$(RUN) scripts/demo.py $(DEMO_ARGS)

test: $(INSTALLED)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) -m pytest $(PYTEST_ARGS)

benchmark: $(INSTALLED)
	$(RUN) -m benchmarks $(BENCHMARK_ARGS)

# The stamp is written last, so an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt llqr/_version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llqr needs Python 3.11 or later, found " + sys.version.split()[0] + "; choose another with make PYTHON=...")'
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
