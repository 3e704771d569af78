# Two commands for a newcomer: `make demo` and `make test`. CONTRIBUTING.md explains the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Further extras to test with, separated by commas: EXTRAS=torch,tensorflow, as CI does.
EXTRAS ?=
DEV := $(VENV)/.dev$(EXTRAS:%=-%)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar off --constraint constraints.txt

# Tests load models into ONNX Runtime, whose telemetry would report them (targets/telemetry.py).
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: help demo test test-long bench check fix lock clean

help:
	@echo "make demo       compile a model, start a fleet and a device, update the device while it runs"
	@echo "make test       linters, type checker, import contracts and the test suite"
	@echo "make test-long  soak tests and sweeps that are too long for every change"
	@echo "make bench      strangers, the zoo and int8 models against ONNX Runtime (and OpenVINO, LiteRT where installed)"
	@echo "make check      linters and type checker only;  make fix  applies their automatic fixes"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "edgec needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot create a virtual environment: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.all: $(BIN)/python pyproject.toml setup.py constraints.txt
	@echo "installing edgec and its dependencies into $(VENV) …"
	@$(PIP) --editable '.[all]'
	@touch $@

$(DEV): $(VENV)/.all
	@echo "installing the test tools$(EXTRAS:%= and %) into $(VENV) …"
	@$(PIP) --editable '.[dev$(EXTRAS:%=,%)]'
	@touch $@

demo: $(VENV)/.all
	@$(BIN)/edgec demo $(DEMO)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

fix: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# scripts/test-tools.sh installs system packages that some tests need (a browser, an emulator, a broker) if it may;
# otherwise those tests are skipped with a message.
test: check
	@scripts/test-tools.sh $(BIN)/python
	$(BIN)/pytest -n 3 --dist worksteal -m "not long" $(PYTEST)

test-long: $(DEV)
	@scripts/test-tools.sh $(BIN)/python
	$(BIN)/pytest -m long $(PYTEST)

bench: $(VENV)/.all
	$(BIN)/edgec bench --suite $(BENCH)

# Rewrite constraints.txt from the versions in the current environment, after trying newer ones in it.
lock: $(DEV)
	@scripts/lock.sh $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
