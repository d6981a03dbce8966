# make demo    install, start a farm on this machine, render the examples into renders/, stop the farm
# make test    install and run the tests
# make soak    MINUTES=10: mixed jobs under all faults at random, then the audit
# make check   format, lint, types and import contracts
# make bench   install, compare with diffusers, measure the farm, and rewrite the tables in deploy/ (15 minutes)
# make gpu     OUT=gpu-record: prove the farm on this machine's GPU in eight minutes (deploy/GPU.md); without one, rehearse it
# make clean   remove what the others made

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

MINUTES ?= 10
OUT ?= gpu-record

.PHONY: demo test soak check format bench gpu clean

demo: $(VENV)/.farm
	FARM_HOME="$${FARM_HOME:-$(CURDIR)/.farm}" $(VENV)/bin/farm demo

test: $(VENV)/.tools
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(TESTS)

soak: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.faults.soak --minutes $(MINUTES) $(SOAK)

check: $(VENV)/.tools
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.tools
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# The farm with everything a laptop needs: the client, the two servers and a worker.
$(VENV)/.farm: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.12 …")'
	@echo "Installing into $(VENV): a few minutes the first time, with PyTorch the largest part."
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[local,worker]'
	@touch $@

$(VENV)/.tools: $(VENV)/.farm
	$(PIP) --editable '.[local,worker,bench,test,check]'
	@touch $@

bench: $(VENV)/.tools
	$(VENV)/bin/python -m tests.benchmarks $(PARTS)

gpu: $(VENV)/.tools
	$(VENV)/bin/python -m tests.gpu --out $(OUT)

clean:
	rm -rf $(VENV) .farm renders gpu-record .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
