# Two commands on a fresh machine: `make train` and `make test`. They need python3 (3.11 or newer) and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --constraint constraints.txt

# Two processes, each with whole files of tests: their fixtures are made once.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help train test test-full test-loggers test-search check doctest bench lessons clean

help:
	@echo "make train      install clearloop in $(VENV) and train the digit classifier on the embedded data"
	@echo "make test       formatting, types, doctests and the quick tests"
	@echo "make test-full  the same with every test, the slow ones too"
	@echo "make test-loggers  the tests of W&B and MLflow, which are installed for them"
	@echo "make test-search  the tests of the search with Ax, which is installed for them"
	@echo "make bench      the benchmarks; ARGS=... chooses among them"
	@echo "make lessons    run the lessons and store their outputs; NAMES=02 chooses among them"
	@echo "make clean      remove what was built; runs/ and data stay"

train: $(VENV)/.installed
	$(BIN)/clearloop train mnist

test: $(VENV)/.installed-test check doctest
	$(PYTEST) -m "not slow and not cuda"

test-full: $(VENV)/.installed-test $(VENV)/.installed-loggers $(VENV)/.installed-search check doctest
	if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; \
	then $(BIN)/python -m pytest -q; else $(BIN)/python -m pytest -q -m "not cuda"; fi

check: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# In a process of its own: importing every module must not colour the tests.
doctest: $(VENV)/.installed-test
	$(PYTEST) --doctest-modules src

test-loggers: $(VENV)/.installed-loggers
	$(BIN)/python -m pytest -q tests/test_loggers_online.py

test-search: $(VENV)/.installed-search
	$(BIN)/python -m pytest -q tests/test_search.py tests/test_search_ax.py tests/test_docs.py -k "search"

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks $(ARGS)

lessons: $(VENV)/.installed-test
	$(BIN)/python lessons/execute.py $(NAMES)

clean:
	rm -rf $(VENV) benchmarks/.envs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

# torch comes first and by its exact pin: resolving a range could fetch several large builds.
# setuptools is there for the editable install, which then needs no build environment of its own.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(INSTALL) torch setuptools
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(INSTALL) --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --no-build-isolation --editable ".[dev,notebook,tables,export,tensorboard,gpu]"
	touch $@

# Heavy packages that few tests need.
$(VENV)/.installed-loggers: $(VENV)/.installed-test
	$(INSTALL) --no-build-isolation --editable ".[wandb,mlflow]"
	touch $@

$(VENV)/.installed-search: $(VENV)/.installed-test
	$(INSTALL) --no-build-isolation --editable ".[search]"
	touch $@

# Some systems ship venv without ensurepip: there the system's pip puts a pip into the new environment.
$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'clearloop needs Python 3.11 or newer, got ' + sys.version.split()[0] + '; say which to use: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	&& $(PYTHON) -m pip --python $@ install --quiet pip; }
