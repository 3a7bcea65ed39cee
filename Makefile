# make chat | test | lint | format | bench | build | install | demo-model CORPUS=DIR
# Everything is built in .venv; a fresh clone needs Python 3.11 or newer and the package index.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: check install chat test lint format bench build demo-model clean

check: lint test

install: .venv/installed-dev

chat: .venv/installed
	@$(BIN)/wkv chat

test: .venv/installed-dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	$(BIN)/python -m bench

# The wheel, tried where nothing else of the project is at hand.
build: .venv/installed-dev
	rm -rf build dist
	$(BIN)/python -m build --quiet --wheel
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt dist/*.whl
	cd build && printf 'Hello\n' | clean/bin/wkv chat

# Trains the built-in model anew from the books in CORPUS (named in wkv/demo/MODEL_CARD.md).
demo-model: .venv/installed-dev
	@test -n "$(CORPUS)" || { echo "say where the books are: make demo-model CORPUS=DIR"; exit 2; }
	$(BIN)/python -m wkv.demo.recipe $(CORPUS) runs/demo

clean:
	rm -rf .venv build dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -q -c constraints.txt -e '.[train,dev]'
	@touch .venv/installed $@
