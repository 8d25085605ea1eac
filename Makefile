# make test | matrix | simt | trust | bench | gpu | lint | sanitize | neon | fuzz | cuda-static | cuda-install |
# simt-mutate | build | clean.
# Options: ARGS="--quick" for the program run, JOBS (test processes), VENV, PYTHON, MATRIX (environments of `matrix`).
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
JOBS ?= 2
MATRIX ?= build/matrix

BIN := $(VENV)/bin
CUDA_VENV := build/cuda-venv
CUDA_TORCH := torch==2.14.1
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)
BUILD_FILES := setup.py pyproject.toml $(wildcard build_backend/*.py) iresnet_fast/_version.py

.PHONY: test matrix simt trust bench gpu lint sanitize neon fuzz cuda-static cuda-install simt-mutate build clean
.DELETE_ON_ERROR:

# Threads that wait for each other sleep: with two test processes on two cores, those that spin take each other's time.
test matrix simt trust: export OMP_WAIT_POLICY = passive

test: build
	$(BIN)/python -m pytest tests -q -n $(JOBS) --dist worksteal $(ARGS)

# The tests against one wheel under the oldest and the newest torch, each in an environment of its own. Where pip finds
# only CUDA builds it takes 6 GB for each, so CI leaves it out.
matrix: build
	rm -rf build/wheel
	FORCE_CUDA=0 $(BIN)/python -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w build/wheel .
	$(BIN)/python tests/matrix.py $(MATRIX) build/wheel/*.whl -n $(JOBS) --dist worksteal $(ARGS)

# The CUDA kernels on the CPU, every access checked; part of `make test`.
simt: build
	$(BIN)/python -m pytest tests/simt -q -n $(JOBS) --dist worksteal $(ARGS)

# Every claim of docs/guarantees.md over all its cases, and a table; under 15 minutes on two cores.
trust: build
	PYTHONPATH=tests $(BIN)/python -m trust --jobs $(JOBS) $(ARGS)

bench: build
	$(BIN)/python benchmarks/bench_logdet.py $(ARGS)

# On a machine with a GPU: is it right, how fast is it, which plans are best; under nine minutes after the build.
gpu: build
	$(BIN)/python benchmarks/gpu_first_run.py $(ARGS)

lint: $(VENV)/.requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict iresnet_fast
	$(BIN)/clang-format --dry-run -Werror $(CPP)

# The kernels without torch, under the address and undefined-behaviour sanitizers.
sanitize: $(VENV)/.requirements
	$(BIN)/python setup.py -q sanitize
	build/sanitize/run $(ARGS)

# The same for AArch64, NEON beside scalar, compiled here and run under qemu; part of `make test`.
neon: $(VENV)/.requirements
	$(BIN)/python tests/arm

# 10,000 calls of raw and public ops with arguments that nobody should pass, on the extension under the same sanitizers.
fuzz: $(VENV)/.requirements
	$(BIN)/python setup.py -q fuzz
	PYTHONPATH=tests $(BIN)/python -m fuzz --extension build/fuzz/_C.so $(ARGS)

# Machine code of the CUDA kernels for every architecture, judged; writes docs/cuda-evidence.md. ARGS=--check: compares.
cuda-static: $(VENV)/.requirements
	$(BIN)/python tests/static $(ARGS)

# Both libraries, for all architectures, installed beside a CUDA build of torch and tried; a GPU is not needed. Takes
# 6 GB and half an hour on two cores, so CI leaves it out.
cuda-install:
	mkdir -p build
	test -d $(CUDA_VENV) || test $$(df -Pk build | awk 'NR == 2 { print $$4 }') -gt 8000000 || \
	  { echo "make cuda-install needs 8 GB of disk for a CUDA build of torch"; exit 1; }
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/python -m pip install -q --disable-pip-version-check $(CUDA_TORCH)
	FORCE_CUDA=1 $(CUDA_VENV)/bin/python -m pip install -q --disable-pip-version-check .
	cd build && $(abspath $(CUDA_VENV))/bin/python $(CURDIR)/tests/cuda_install.py

# Plants one bug at a time in the CUDA kernels; the emulated tests must notice.
simt-mutate: build
	$(BIN)/python tests/simt/mutate.py $(ARGS)

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
	rm -rf build dist *.egg-info iresnet_fast/_C.*.so iresnet_fast/lib*.so $(VENV)/.built
