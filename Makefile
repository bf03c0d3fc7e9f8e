# Two commands for a new user: `make quickstart` and `make test`. Both do their own set-up, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install quickstart test test-all test-wheel test-cuda-compiler lint types docs clean

help:
	@echo "make quickstart   set up, draw street scenes, train, evaluate and predict (minutes on a laptop CPU)"
	@echo "make test         set up and run the test suite"
	@echo "make test-all     the tests that take minutes, too"
	@echo "make test-wheel   run the tests against the built and installed wheel"
	@echo "make test-cuda-compiler   what NVIDIA's compilers make of a training step; installs 3 GB, needs no GPU"
	@echo "make lint types   ruff, codespell, proselint and mypy"
	@echo "make docs         build the documentation site in build/docs"
	@echo "make clean        remove environments and caches (not data/ and runs/)"

install: $(VENV)/installed
$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else 'Python 3.11 to 3.13 is needed; say which with make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable ".[test,lint,docs]"
	touch $@

quickstart: install
	$(BIN)/python run.py --config=configs/quickstart.py
	$(BIN)/python run.py --config=configs/quickstart.py --mode=evaluate
	$(BIN)/python run.py --config=configs/quickstart.py --mode=predict
	@echo
	@echo "Overlays: runs/quickstart/predictions/*_overlay.png"
	@echo "To use run.py yourself, first type: . $(BIN)/activate"
	@$(BIN)/python -c "import json; r = json.load(open('runs/quickstart/evaluation.json')); print(f'mIoU {r[\"miou\"]:.4f} on {r[\"images\"]} street scenes that were not trained on')"

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2

# Away from the sources, so that only what the wheel holds can be imported, and compiled with all optimisations, as users do.
OF_THE_WHEEL := tests/test_house.py tests/ops tests/models tests/training tests/inference tests/visual tests/end_to_end/test_run.py
test-wheel: $(VENV)/installed-test
	rm -rf build/wheel && mkdir -p build/wheel/away
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/wheel/site build/wheel/*.whl
	cp -r tests benchmarks configs docs run.py README.md pyproject.toml build/wheel/away/
	cd build/wheel/away && export PYTHONPATH="$(CURDIR)/build/wheel/site" DANET_SHARED="$(abspath ../shared)" \
	  && "$(abspath $(BIN))/python" -c "import danet_jax; print('testing', danet_jax.__file__)" \
	  && JAX_DISABLE_MOST_OPTIMIZATIONS=false "$(abspath $(BIN))/python" -m pytest -n 2 -m "not slow" -p no:cacheprovider $(OF_THE_WHEEL)

# In an environment of its own: JAX with CUDA would look for a GPU in every other run.
$(VENV)-cuda/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)-cuda
	$(VENV)-cuda/bin/pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable ".[cuda]" pytest
	touch $@

test-cuda-compiler: $(VENV)-cuda/installed
	JAX_DISABLE_MOST_OPTIMIZATIONS=false XLA_FLAGS=--xla_gpu_autotune_level=0 $(VENV)-cuda/bin/python -m pytest -m cuda_compiler tests/modes/test_compile.py tests/models/test_cuda_compiler.py

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/proselint check README.md CHANGELOG.md CONTRIBUTING.md docs

types: $(VENV)/installed-test
	$(BIN)/mypy

docs: $(VENV)/installed-test
	$(BIN)/python -m sphinx -q -b html --fail-on-warning --keep-going docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) $(VENV)-cuda build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
