# make chat | test | test-all | test-long | lint | format | bench | build | sanitize | install | clean | demo-model CORPUS=DIR
# Everything is installed in .venv. A fresh clone needs Python 3.11 or newer and access to a package index.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
MAX_SKIPPED := 150 # mostly tests of the chat page, which need Chromium
OLDEST_TRANSFORMERS := 5.0.0
HF_TESTS := tests/hf tests/publish/test_transformers_versions.py
SOURCES := pyproject.toml constraints.txt CMakeLists.txt \
	$(wildcard wkv/native/source/*.* wkv/native/source/cpu/*.*)

# If the native engine cannot be built, pip installs the rest without a message. This prints the result.
TELL_ENGINE := -c "from importlib.util import find_spec as find; \
	print('native engine:', 'built' if find('wkv.native._engine') else 'NOT built, see CONTRIBUTING.md')"

.PHONY: check install chat test test-all test-transformers test-long sanitize lint format bench build demo-model clean

check: lint test

install: .venv/installed-dev

chat: .venv/installed
	@$(BIN)/wkv chat

test: .venv/installed-dev test-transformers
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --max-skipped $(MAX_SKIPPED)

# Also transformers' own tests of every model, from the source of the installed version (a download).
# tests/hf_common/exclusions.py lists those left out, with reasons.
test-all: test
	$(BIN)/python -m tests.hf_common

# Exported models are used for years. Their code is therefore tested with the oldest version of transformers
# that we support, and with the newest version on the package index.
test-transformers: .venv/transformers-oldest/installed .venv/transformers-newest/installed
	.venv/transformers-oldest/bin/python -m pytest -q -n $(WORKERS) $(HF_TESTS)
	.venv/transformers-newest/bin/python -m tests.newest || \
	.venv/transformers-newest/bin/python -m pytest -q -n $(WORKERS) $(HF_TESTS)

# The tests of the native engine with AddressSanitizer and UBSan. Python itself is not built with them,
# so their libraries are preloaded, and its memory leaks are ignored.
sanitize: .venv/installed-dev
	CXX=g++ $(BIN)/cmake -S . -B build/sanitize -DWKV_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize --parallel $(WORKERS)
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/python -m pytest -q --capture=sys tests/native --engine-library build/sanitize/_engine.abi3.so

# The kernels of 64-bit ARM in an emulator, compared with the plain ones. On Debian:
# apt-get install g++-aarch64-linux-gnu qemu-user
test-long: .venv/installed-dev
	$(BIN)/cmake -S . -B build/arm64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DWKV_COMPARE_KERNELS=ON
	$(BIN)/cmake --build build/arm64 --parallel $(WORKERS)
	qemu-aarch64 -cpu max build/arm64/compare_kernels

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	$(BIN)/python -m bench

# Builds the wheel, and tests it in an environment that contains nothing else of the project.
build: .venv/installed-dev
	rm -rf build/clean dist
	$(BIN)/python -m build --quiet --wheel -Cbuild-dir=build/wheel -Ccmake.define.WKV_ALL_LEVELS=ON
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt dist/*.whl
	cd build && clean/bin/python $(TELL_ENGINE)
	cd build && printf 'Hello\n' | clean/bin/wkv chat

# Trains the built-in model again from the books in CORPUS (listed in wkv/demo/MODEL_CARD.md).
demo-model: .venv/installed-dev
	@test -n "$(CORPUS)" || { echo "say where the books are: make demo-model CORPUS=DIR"; exit 2; }
	$(BIN)/python -m recipes.demo_model.recipe $(CORPUS) runs/demo

# These environments contain another version of transformers, and use all other packages of .venv.
.venv/transformers-%/bin/python: .venv/installed-dev
	$(PYTHON) -m venv .venv/transformers-$*
	$(BIN)/python -m tests.beside .venv/transformers-$*

.venv/transformers-oldest/installed: .venv/transformers-oldest/bin/python
	.venv/transformers-oldest/bin/python -m pip --disable-pip-version-check install -q \
		'transformers==$(OLDEST_TRANSFORMERS)'
	@touch $@

.venv/transformers-newest/installed: .venv/transformers-newest/bin/python
	.venv/transformers-newest/bin/python -m pip --disable-pip-version-check install -q --upgrade \
		transformers
	@touch $@

clean:
	rm -rf .venv build dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: $(SOURCES) | .venv/bin/python
	@$(PYTHON) -m recipes.install .venv .
	@$(BIN)/python $(TELL_ENGINE)
	@touch $@

.venv/installed-dev: $(SOURCES) | .venv/bin/python
	@$(PYTHON) -m recipes.install .venv '.[train,dev]' --all-levels
	@$(BIN)/python $(TELL_ENGINE)
	@touch .venv/installed $@
