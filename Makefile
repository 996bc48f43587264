# `make demo` and `make test` do all the set-up they need. Choose another interpreter with
# `make PYTHON=/path/to/python3.12 ...`, other tests with `make test PYTEST_ARGS="tests/scans"`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTEST_ARGS ?= -m "not slow"
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo test lint bench clean

help:
	@echo "make demo    screen three photographs and say where the report is"
	@echo "make test    run the tests"
	@echo "make lint    check style, types and the order of the rooms"
	@echo "make bench   measure speed and memory"

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "foveal needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing foveal and its libraries into .venv."
	@echo "The first time this takes some minutes and 2 to 7 GB of disk, most of it for torch."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# One test process a core (four at most), each with one thread: threads of several processes would only wait
# for one another.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script; done

clean:
	rm -rf .venv demo runs
