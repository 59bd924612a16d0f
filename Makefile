# `make run` and `make test` need only Python 3.11 or later. They create .venv and update it.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv

.PHONY: run test e2e e2e-full benchmark chart lock clean

## Run the whole job on scikit-learn's digits with two workers. After the installation it takes less than a minute.
run: .venv/run
	$(BIN)/mnist-job run --data digits

## Run all checks that need no Kubernetes cluster. Options for pytest: make test PYTEST="-k metrics"
test: .venv/test
	@$(call timed,ruff format,$(BIN)/ruff format --check .)
	@$(call timed,ruff check,$(BIN)/ruff check .)
	@$(call timed,mypy,$(BIN)/mypy)
	@$(call timed,imports,$(BIN)/lint-imports --no-logo)
	@$(call timed,unit and chart tests,$(BIN)/pytest tests/unit tests/chart $(TWO) -m "not full" $(PYTEST))
	@$(call timed,Ray tests,$(BIN)/pytest tests/ray $(TWO) -m "not full and not alone" --durations=20 $(PYTEST))
	@$(call timed,Ray tests of one run,$(BIN)/pytest tests/ray -m "alone" $(PYTEST))

## Test the chart on the cluster that KUBECONFIG names; tests/e2e/README.md says what it needs.
e2e: .venv/test
	@$(call timed,end-to-end tests,$(BIN)/pytest tests/e2e $(TWO) -m "not full" --durations=0 $(PYTEST))

## Run also the tests that are marked `full`. Do this before a release, or after a change that concerns them: it takes too long
## for each change.
e2e-full: .venv/test
	@$(call timed,unit tests in full,$(BIN)/pytest tests/unit $(TWO) -m full $(PYTEST))
	@$(call timed,Ray tests in full,$(BIN)/pytest tests/ray $(TWO) -m "not alone" --durations=0 $(PYTEST))
	@$(call timed,end-to-end tests in full,$(BIN)/pytest tests/e2e $(TWO) --durations=0 $(PYTEST))

## Compare this job with other ways to train: make benchmark MNIST=/path/of/mnist.npz [QUICK=1] [ROWS="job-2 torch-2"]
benchmark: .venv/test .venv-benchmark/installed
	$(BIN)/python -m ops.benchmark run $(MNIST) $(if $(QUICK),--quick) $(if $(ROWS),--rows $(ROWS))

## Generate the parts of the chart and the documents that come from job/mnist_job/config/settings.py and values.yaml.
chart: .venv/test
	$(BIN)/python ops/chart.py

## Resolve the dependencies again, all to the versions that the tests use. There is no uv.lock, because it would contain
## the address of the registry.
lock: .venv/uv
	$(UV) pip compile $(COMPILE) pyproject.toml --group dev -o requirements-dev.lock
	$(UV) pip compile $(COMPILE) pyproject.toml -c requirements-dev.lock -o requirements.lock
	$(UV) pip compile $(COMPILE) pyproject.toml requirements-cpu.in --overrides requirements-cpu.in \
	  -c requirements.lock -o requirements-cpu.lock
	$(UV) pip compile $(COMPILE) pyproject.toml --extra gpu -c requirements.lock -o requirements-gpu.lock
	$(UV) pip compile $(COMPILE) --group benchmark -c requirements-dev.lock -o requirements-benchmark.lock

clean:
	rm -rf .venv .venv-benchmark runs .mypy_cache .pytest_cache .ruff_cache

COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-header
# Compile to bytecode at installation. Without it, each worker that cannot write there would compile TensorFlow again.
INSTALL := pip install --quiet --require-hashes --compile-bytecode
PACKAGE := pip install --quiet --no-deps --editable .

.venv/uv:
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "mnist-job needs Python 3.11, 3.12 or 3.13 (make PYTHON=...); this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet 'uv>=0.9,<1'
	@touch $@

.venv/run: .venv/uv requirements.lock pyproject.toml
	@echo "installing the locked dependencies: about 3 GB"
	$(UV) $(INSTALL) -r requirements.lock
	$(UV) $(PACKAGE)
	@touch $@

.venv/test: .venv/run requirements-dev.lock
	$(UV) $(INSTALL) -r requirements-dev.lock
	@touch $@

.venv-benchmark/installed: .venv/uv requirements-benchmark.lock
	@echo "installing the packages of the other ways to train: about 5 GB, mostly the CUDA libraries that torch is linked to"
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-benchmark
	$(UV) $(INSTALL) --python .venv-benchmark/bin/python -r requirements-benchmark.lock
	@touch $@

# Run two tests at once, because they mostly wait for Ray and for timeouts. Tests that share a fixture stay together.
TWO := --numprocesses 2 --dist loadscope

# $(call timed,NAME,COMMAND): run the command, and print how long it took.
timed = start=$$(date +%s); $(2) && echo "--- $(1): $$(($$(date +%s) - start)) s"
