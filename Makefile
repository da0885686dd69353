# Every target makes its own environment on first use; a machine needs Python 3.11+ and make.
# Use another interpreter or folder with `make test PYTHON=python3.12 VENV=/somewhere/.venv`.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
# Workers are processes: two threads in each of two processes on two cores run ten times slower.
export OMP_NUM_THREADS = 1
# Each of the many processes of the tests would compile every module of ours anew.
unexport PYTHONDONTWRITEBYTECODE

# Shape annotations are checked at every call of the first pytest run. The hook and
# torch.compile(fullgraph=True) exclude one another, so compile tests run without it.
SHAPES := --jaxtyping-packages=common,flamingo,flare,beartype.beartype
# A file's tests share its fixtures, so one worker runs them all; the order is conftest.py's.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=5
EAGER := $(PYTEST) $(SHAPES) --ignore-glob='*test_compile*.py'
COMPILED := $(shell find tests -name 'test_compile*.py')
PROOFS := $(shell grep -rlE 'counted."|Counted|mark.proves' tests --include='test_*.py')

.DEFAULT_GOAL := help
.PHONY: help install quickstart quickstart-flare report test nightly matrix check lint format parameters numbers audit errors peers fixtures

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## make the environment (repeated only when pyproject.toml changed)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

quickstart quickstart-flare: export OMP_NUM_THREADS = 2
quickstart: $(STAMP)  ## train the tiny Flamingo end to end and write its report
	$(BIN)/python scripts/quickstart.py

quickstart-flare: $(STAMP)  ## train the tiny FLARE end to end and write its report
	$(BIN)/python scripts/quickstart_flare.py

# What there is of the quickstarts, of evaluations and of tuning.
REPORTED := $(wildcard runs/quickstart runs/quickstart-flare)
EVALUATED := $(REPORTED) $(patsubst %/results.json,%,$(wildcard runs/evaluation/*/results.json))
TUNED := $(patsubst %/results.json,%,$(wildcard runs/instruct*/results.json))
REPORT ?= --run $(REPORTED) --evaluation $(EVALUATED) --alignment $(TUNED)

report: $(STAMP)  ## technical report of what lies in runs/ (or of REPORT="--run FOLDER ...")
	$(BIN)/python scripts/report.py $(REPORT) --out runs/report

test: check  ## everything that runs without a GPU: the fast part, then the slow tests
	$(EAGER) -m "slow and not gpu and not nightly"
	$(if $(COMPILED),$(PYTEST) -m "not gpu" $(COMPILED))

nightly: $(STAMP)  ## hundreds of kills of both models, more shards and schedules (not in `make test`)
	$(PYTEST) -m nightly --matrix=runs/nightly

matrix: $(STAMP)  ## count the faults that the tests survive into docs/reliability.md
	rm -rf runs/matrix
	$(PYTEST) $(SHAPES) -m "not gpu and not nightly" --matrix=runs/matrix $(PROOFS)
	$(BIN)/python -m tests.reliability.table runs/matrix docs/reliability.md

check: lint  ## the fast part: ruff, mypy, fast tests (at most 3 minutes on 2 cores)
	$(EAGER) -m "not slow and not gpu"

lint: $(STAMP)  ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parameters: $(STAMP)  ## parameter table of every preset, per component
	$(BIN)/python scripts/parameters.py

numbers: $(STAMP)  ## sizes of files and functions, lines of the reading path
	$(BIN)/python scripts/house_numbers.py

audit: $(STAMP)  ## known vulnerabilities of what is installed (needs the network)
	$(BIN)/python -m pip install --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --skip-editable

errors: $(STAMP)  ## list every message for a mistake in docs/errors.md
	$(BIN)/python scripts/error_list.py

# Their requirements pin old versions of ours, hence --no-deps.
PEERS := open-flamingo flamingo-pytorch einops-exts open_clip_torch ftfy wcwidth

peers: $(STAMP)  ## add the libraries that benchmarks time ours beside
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(PEERS)

fixtures: peers  ## run the peers once more for what the conversion tests compare with
	$(BIN)/python scripts/fixtures/flamingo_peers.py tests/fixtures/flamingo
