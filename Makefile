# make demo    install, start a farm on this machine, render the examples into renders/, stop the farm
# make test    install and run the tests; the slowest are told at the end; PROCESSES=3 of them run side by side
# make test-fast  those that need neither a farm nor long, in two minutes: for every edit
# make coverage  TESTS=tests/farm: what the tests run of each file, in percent, and line by line in coverage/index.html
# make lowest  the unit tests with the lowest versions that pyproject.toml allows, which lie in deploy/requirements/lowest.txt
# make soak    MINUTES=10: mixed jobs under all faults at random, then the audit
# make check   format, lint, types, import contracts, and the documentation's links
# make docs    write the reference of the commands anew, and build the documentation into site/
# make bench   install, compare with diffusers, measure the farm, and rewrite the tables in deploy/docs/ (15 minutes)
# make gpu     OUT=gpu-record: prove the farm on this machine's GPU in eight minutes (deploy/docs/gpu.md); without one, rehearse it
# make lock    after a change of constraints.txt or of the dependencies: write the hashes in deploy/requirements/ anew, from PyPI
# make audit   ask PyPI's advisories about every package that is installed; needs a network
# make clean   remove what the others made

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet
PIP_LOWEST := $(VENV)/lowest/bin/python -m pip --disable-pip-version-check install --quiet

# torch has another build, with another hash, for each kind of GPU, and brings the libraries of that GPU with it: these
# alone are installed by version, without hashes.
BY_PLATFORM := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
    nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
    nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
# The hashes of every file of each release, for all platforms: those of PyPI, unless a variable of uv names another index.
COMPILE := $(VENV)/locking/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --no-build \
    --generate-hashes --no-annotate --no-header \
    $(addprefix --no-emit-package ,$(BY_PLATFORM)) pyproject.toml
LOCK := $(COMPILE) --constraint constraints.txt
LOWEST_TORCH := $(shell sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)

# Not with --quiet, which counts no warnings: then --strict lets everything pass. The variable silences an advertisement.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --config-file deploy/mkdocs.yml

# The order is that of tests/conftest.py: farms, whose tests wait for half of their time for leases and restarts, run beside
# what computes. Four processes would take memory that small machines have not.
PROCESSES ?= 3
# What Python compiles is kept, whatever the environment says: tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(VENV)/bin/python -m pytest --dist loadfile --no-loadscope-reorder

MINUTES ?= 10
OUT ?= gpu-record

.PHONY: demo test test-fast coverage lowest soak check format docs bench gpu lock audit clean

demo: $(VENV)/.farm
	FARM_HOME="$${FARM_HOME:-$(CURDIR)/.farm}" $(VENV)/bin/farm demo

test: $(VENV)/.tools
	$(PYTEST) --numprocesses $(PROCESSES) --durations=15 --durations-min=5 $(TESTS)

test-fast: $(VENV)/.tools
	$(PYTEST) --numprocesses 2 -m "not farm and not long" $(TESTS)

# Slower by a quarter, and so not a part of the gate.
coverage: $(VENV)/.tools
	$(PYTEST) --numprocesses $(PROCESSES) --cov --cov-report=term --cov-report=html $(TESTS)
	@echo "Line by line: coverage/index.html"

lowest: $(VENV)/lowest/.installed
	$(VENV)/lowest/bin/python -m pytest --numprocesses 2 --dist loadfile tests/farm tests/worker

soak: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.faults.soak --minutes $(MINUTES) $(SOAK)

check: $(VENV)/.tools
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(MKDOCS) --site-dir "$(CURDIR)/$(VENV)/site"

format: $(VENV)/.tools
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(VENV)/.tools
	$(VENV)/bin/python deploy/commands_page.py
	$(MKDOCS) --site-dir "$(CURDIR)/site"
	@echo "The documentation is in site/index.html; with its search: $(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory site"

# The farm with everything a laptop needs: the client, the two servers and a worker.
# What setuptools builds of this clone needs nothing that is not locked: hence no isolation, which would fetch unlocked tools.
$(VENV)/.farm: pyproject.toml constraints.txt deploy/requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.12 …")'
	@echo "Installing into $(VENV): a few minutes the first time, with PyTorch the largest part."
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --requirement deploy/requirements/run.txt
	$(PIP) --constraint constraints.txt torch
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.farm deploy/requirements/tools.txt
	$(PIP) --require-hashes --requirement deploy/requirements/tools.txt
	@touch $@

# What else these need is the newest of when `make lock` ran: they are not tested with its oldest. PyTorch, which has no
# hashes here, comes first, for some of them need it.
$(VENV)/lowest/.installed: deploy/requirements/lowest.txt
	test -x $(VENV)/lowest/bin/python || $(PYTHON) -m venv $(VENV)/lowest
	$(PIP_LOWEST) torch==$(LOWEST_TORCH)
	$(PIP_LOWEST) --require-hashes --requirement deploy/requirements/lowest.txt
	$(PIP_LOWEST) --no-deps --no-build-isolation --editable .
	@touch $@

bench: $(VENV)/.tools
	$(VENV)/bin/python -m tests.benchmarks $(PARTS)

gpu: $(VENV)/.tools
	$(VENV)/bin/python -m tests.gpu --out $(OUT)

lock:
	test -x $(VENV)/locking/bin/uv || $(PYTHON) -m venv $(VENV)/locking
	$(VENV)/locking/bin/python -m pip --disable-pip-version-check install --quiet uv==0.13.9
	$(LOCK) --extra local --extra worker --extra web --output-file deploy/requirements/run.txt
	$(LOCK) --all-extras --output-file deploy/requirements/tools.txt
	$(COMPILE) --resolution lowest-direct --extra local --extra worker --extra web --extra bench --extra test \
	    --output-file deploy/requirements/lowest.txt

# Strict: a package that PyPI could not be asked about is not one without a fault.
audit:
	test -x $(VENV)/auditing/bin/pip-audit || $(PYTHON) -m venv $(VENV)/auditing
	$(VENV)/auditing/bin/python -m pip --disable-pip-version-check install --quiet pip-audit==2.10.1
	$(VENV)/auditing/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

clean:
	rm -rf $(VENV) .farm renders gpu-record site coverage .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
