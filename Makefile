# make test | bench | lint | sanitize | build | clean.  Options: ARGS="--quick" for the program run, VENV, PYTHON.
VENV ?= .venv
PYTHON ?= python3
ARGS ?=

BIN := $(VENV)/bin
CPP := $(shell find csrc tests/sanitize -name '*.cpp' -o -name '*.h' 2>/dev/null)
BUILD_FILES := setup.py pyproject.toml $(wildcard build_backend/*.py) iresnet_fast/_version.py

.PHONY: test bench lint sanitize build clean
.DELETE_ON_ERROR:

test: build
	$(BIN)/python -m pytest tests -q $(ARGS)

bench: build
	$(BIN)/python benchmarks/bench_logdet.py $(ARGS)

lint: $(VENV)/.requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict iresnet_fast
	$(BIN)/clang-format --dry-run -Werror $(CPP)

# The kernels without torch, under the address and undefined-behaviour sanitizers.
sanitize: $(VENV)/.requirements
	$(BIN)/python setup.py -q sanitize
	build/sanitize/run $(ARGS)

build: $(VENV)/.built

# Once per change of the requirements. A torch that is already in the environment is kept, whatever its version.
$(VENV)/.requirements: requirements/dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if $(BIN)/python -m pip show -q torch 2>/dev/null; then grep -v '^torch==' $<; else cat $<; fi > $@.tmp
	$(BIN)/python -m pip install -q --disable-pip-version-check -r $@.tmp
	mv $@.tmp $@

# Editable: Python changes need no build, and ninja recompiles only what a change of csrc touches.
$(VENV)/.built: $(VENV)/.requirements $(CPP) $(BUILD_FILES)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf build dist *.egg-info iresnet_fast/_C.*.so $(VENV)/.built
