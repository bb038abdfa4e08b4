# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Another build of torch, for example: make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?=
PIP_INDEX = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
BIN = $(VENV)/bin
SOURCES = $(shell git ls-files hhrnet_deploy training calibration engines CMakeLists.txt pyproject.toml constraints.txt 2>/dev/null)

.PHONY: demo test lint slow figures gpu-kit gpu-test clean

demo: $(VENV)/.installed
	$(BIN)/hhrnet demo

test: $(VENV)/.test
	$(BIN)/pytest -n auto --dist loadgroup

slow: $(VENV)/.test
	$(BIN)/pytest -m slow

figures: $(VENV)/.test
	$(BIN)/pytest -m figures -s

# What a CUDA machine without network needs, into gpu-kit/ (ignored); then, there: make gpu-test PYTHON=python3.12
# With a Python of that version here, KIT="--interpreter python3.12" compiles here what would take minutes there.
gpu-kit: $(BIN)/python
	$(BIN)/python tests/gpu/make_kit.py $(KIT)

gpu-test:
	PYTHON=$(PYTHON) tests/gpu/run.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu')

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# One build per change: what installs more also counts as what installs less.
$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install $(PIP_INDEX) -c constraints.txt .
	touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install $(PIP_INDEX) -c constraints.txt '.[test]'
	touch $(VENV)/.installed $@

$(VENV)/.dev: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install $(PIP_INDEX) -c constraints.txt '.[test,dev]'
	touch $(VENV)/.installed $(VENV)/.test $@

clean:
	rm -rf build dist $(VENV)
