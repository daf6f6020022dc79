# make demo runs the main job, make lab opens the notebooks, make test passes the tests, make bench
# compares speed and memory with others'; each makes .venv itself.
# On Linux without a GPU, the smaller CPU build of torch can be had from PyTorch's own index:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

# The first that runs and is new enough; 3.11 is what constraints.txt was made with.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo lab test lint fast bench clean

demo: .venv/installed
	$(BIN)/distill-lab run

lab: .venv/notebooks
	$(BIN)/distill-lab lab

test: lint .venv/tested
	$(BIN)/python -m pytest

fast: .venv/tested
	$(BIN)/python -m pytest -m "not slow"

bench: .venv/benched
	$(BIN)/python -m benchmarks

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	@test -n "$(PYTHON)" || \
		{ echo "Python 3.11 or newer is needed: make demo PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv

# torch first and alone, so that its build is chosen here and not by what depends on it.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv (a few minutes, once)"
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) --editable .
	@touch $@

.venv/notebooks: .venv/installed
	$(PIP) --editable '.[notebooks]'
	@touch $@

.venv/tested: .venv/installed
	$(PIP) --editable '.[test]'
	@touch $@

.venv/benched: .venv/tested benchmarks/requirements.txt
	$(PIP) --requirement benchmarks/requirements.txt
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
