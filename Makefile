# A machine with Python 3.10 or newer and make is enough: each target makes the virtual environment that it needs.

VENV        ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS  ?=
# Tests run on all cores, two at a time on each. Those of one file or class stay together where they share a server.
PARALLEL    ?= -n auto --dist loadscope

BIN          := $(VENV)/bin
FLOORS_VENV  := .venv-floors
WHEEL_VENV   := .venv-wheel
PROTOS_VENV  := .venv-protos
CLIENTS_VENV := .venv-clients
PIP_INSTALL  := -m pip install --quiet --disable-pip-version-check

# The first of these that runs, is new enough and can make virtual environments. A name on the PATH proves none of it:
# version managers put names there that only complain. Asked for once, and only where an environment has to be made.
usable = $(firstword $(foreach name,$(1),$(shell $(name) -c \
  'import sys, venv, ensurepip; sys.version_info >= (3, 10) and print("$(name)")' 2>/dev/null </dev/null)))
NEWEST_FIRST := python3.13 python3.12 python3.11 python3.10 python3
OLDEST_FIRST := python3.10 $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.10.*/bin/python) \
  python3.11 python3.12 python3.13 python3
NO_PYTHON    := No usable Python found. Needed: Python 3.10 or newer with the venv module (on Debian: apt install \
  python3-venv). If it has another name: make PYTHON=/path/to/python

# $(call make-venv,folder,names): the environment is made where it should be, never moved.
make-venv = @python="$(or $(PYTHON),$(call usable,$(2)))"; \
  if [ -z "$$python" ]; then echo "$(NO_PYTHON)" >&2; exit 1; fi; \
  echo "making $(1) with $$python"; "$$python" -m venv "$(1)"

.NOTPARALLEL:
.PHONY: help demo bench bench-check docs docs-check test-fast test test-parity test-soak test-clients coverage test-pythons chaos fleet test-wheel test-floors \
  lint format types layers protos protos-check package hooks check clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed 's/:.*  ## /\t/' | expand -t 14

demo: $(VENV)/.run  ## run the five services on loopback, with real TLS
	$(BIN)/grpc-bearer demo

bench: $(VENV)/.bench  ## what auth costs a call: measure it, write benchmarks/report and the figures in README.md; BENCH_ARGS="--only unary"
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-check: $(VENV)/.bench $(VENV)/.test  ## the smallest run of all benchmarks: do they run, and report?
	rm -rf build/bench-check
	$(BIN)/python -m benchmarks --scale 0 --out build/bench-check/report --work build/bench-check/work
	$(BIN)/python -m pytest -q tests/project/test_benchmarks.py

# Always all anew: what did not change would else be missing in the search, and have its old navigation.
docs: $(VENV)/.docs $(VENV)/.test  ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -E -a -d docs/_build/trees docs docs/_build/html
	GRPC_BEARER_SITE="$(CURDIR)/docs/_build/html" $(BIN)/python -m pytest -q tests/project/test_site.py
	@echo "docs/_build/html/index.html"

# What a browser makes of the site. Wanted: node 20 with npm, and Chromium or Chrome (Debian: apt install chromium).
SITE_FOLDER  := tests/_site
SITE_MODULES := $(SITE_FOLDER)/node_modules/.package-lock.json

docs-check: docs $(SITE_MODULES)  ## look at every page of the documentation in headless Chromium: contrast, keyboard, narrow screens
	node $(SITE_FOLDER)/check.js docs/_build/html $(PAGES)

# A real authorization server, from npm. Where it cannot be had, its tests skip and say so.
NPM_FOLDER  := tests/_authorization_server
NPM_MODULES := $(NPM_FOLDER)/node_modules/.package-lock.json

# $(call pytest,python,folders): those folders, or what PYTEST_ARGS names instead.
TESTS  := tests/unit tests/wire tests/parity tests/project
pytest  = $(1) -m pytest $(PARALLEL) $(if $(findstring tests/,$(PYTEST_ARGS)),,$(2)) $(PYTEST_ARGS)

test-fast: $(VENV)/.test  ## the tests that need no network: half a minute
	$(call pytest,$(BIN)/python,tests/unit)

test: $(VENV)/.test $(NPM_MODULES)  ## all tests but the long ones; choose with PYTEST_ARGS="tests/unit/test_token.py -k trim"
	$(call pytest,$(BIN)/python,$(TESTS)) $(if $(findstring tests/,$(PYTEST_ARGS)),,-m "not nightly")

test-parity: $(VENV)/.test  ## what `make test` leaves out, above all: every way to attach against plain gRPC
	$(call pytest,$(BIN)/python,$(TESTS)) -m nightly

test-soak: $(VENV)/.test  ## the long ones in their smallest form: chaos, fleet, leaks, engines, clients that are here
	$(BIN)/python -m pytest tests/soak tests/clients $(PYTEST_ARGS)

# Apart from all others: what clients pin is theirs.
test-clients: $(CLIENTS_VENV)/.test  ## docs/guides/clients.md with the real clients, and Ray: for the night, 1.5 GB to install
	GRPC_BEARER_BATCH=10000 $(CLIENTS_VENV)/bin/python -m pytest -rs \
	  $(or $(PYTEST_ARGS),tests/clients tests/soak/test_engines.py::test_rays_tasks_and_actors)

coverage: $(VENV)/.dev  ## which lines and branches no test runs
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(PARALLEL) -q --timeout 900 tests/unit tests/wire tests/parity -m "not nightly" \
	  --deselect tests/wire/test_cli_token.py::test_help_waits_for_nothing_slow  # coverage itself imports some of it
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

chaos: $(VENV)/.test  ## three minutes in which everything goes wrong, and a table; CHAOS_ARGS="--seed 7 --seconds 60"
	$(BIN)/python tests/soak/chaos/run.py $(or $(CHAOS_ARGS),--seed 1 --seconds 180)

fleet: $(VENV)/.test  ## 200 processes that share one token, and all that may go wrong: a table; FLEET_ARGS="--processes 50"
	$(BIN)/python tests/soak/fleet/run.py $(FLEET_ARGS)
	GRPC_BEARER_BATCH=10000 $(BIN)/python -m pytest -rs tests/soak/test_engines.py tests/soak/test_spark.py

# The tests come from the sdist, whose package is taken away: what they import can only be the wheel's.
test-wheel: package  ## run all tests on the built wheel, in a fresh environment and with no source about
	rm -rf $(WHEEL_VENV)
	$(call make-venv,$(WHEEL_VENV),$(NEWEST_FIRST))
	$(WHEEL_VENV)/bin/python $(PIP_INSTALL) "$$(echo dist/*.whl)[test,neighbours]"
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	  tar -xzf dist/*.tar.gz -C "$$folder" --strip-components 1; \
	  rm -r "$$folder"/grpc_bearer "$$folder"/*.py "$$folder"/*.egg-info; \
	  cd "$$folder"; GRPC_BEARER_DIST="$(CURDIR)/dist" \
	  $(call pytest,"$(abspath $(WHEEL_VENV))/bin/python",$(TESTS))

test-floors: $(FLOORS_VENV)/.test $(NPM_MODULES)  ## run all tests on the oldest supported versions (tests/floors.txt)
	$(call pytest,$(FLOORS_VENV)/bin/python,$(TESTS)) -p no:cacheprovider

# Of each minor version the newest that pyenv or the system has.
PYTHONS = $(foreach minor,3.10 3.11 3.12 3.13 3.14,$(firstword $(call usable,$(lastword $(sort $(wildcard \
  $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/$(minor).*/bin/python))) python$(minor))))

test-pythons:  ## the tests of unit and wire on every Python from 3.10 up that is here; WITHOUT="3.10"
	@set -e; for python in $(PYTHONS); do \
	  version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  case " $(WITHOUT) " in *" $$version "*) continue;; esac; \
	  $(MAKE) --no-print-directory VENV=.venv-$$version PYTHON=$$python test PYTEST_ARGS="tests/unit tests/wire -m 'not nightly' $(PYTEST_ARGS)"; \
	done

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev  ## mypy --strict, pyright on code as users write it, and whether every public name is typed
	$(BIN)/python -m mypy --strict grpc_bearer _grpc_bearer_pytest.py tests/typing
	$(BIN)/python -m mypy --strict --platform win32 grpc_bearer _grpc_bearer_pytest.py
	$(BIN)/pyright --warnings --pythonversion 3.10 --pythonpath $(BIN)/python tests/typing
	PYTHONPATH="$(CURDIR)" PATH="$(abspath $(BIN)):$$PATH" pyright --verifytypes grpc_bearer --ignoreexternal

layers: $(VENV)/.test  ## imports point downward only, and slow packages wait until they are used
	$(BIN)/python -m pytest -q tests/project/test_layers.py

protos: $(PROTOS_VENV)/.tools  ## generate grpc_bearer/testing/_pb again
	$(PROTOS_VENV)/bin/python protos/generate

protos-check: $(PROTOS_VENV)/.tools  ## is grpc_bearer/testing/_pb what protos/ says?
	$(PROTOS_VENV)/bin/python protos/generate --check

package: $(VENV)/.dev  ## build wheel and sdist into dist/, and check what is in them
	rm -rf dist *.egg-info
	$(BIN)/python -m build --quiet --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	GRPC_BEARER_DIST="$(CURDIR)/dist" $(BIN)/python -m pytest -q tests/project/test_distribution.py

hooks: $(VENV)/.dev  ## have git run lint and types before each commit
	$(BIN)/pre-commit install

check:  ## all that CI runs
	.ci/run

clean:  ## remove what the other targets made
	rm -rf .venv* build dist docs/_build docs/_report *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	rm -rf $(NPM_FOLDER)/node_modules $(SITE_FOLDER)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. A stamp says what was installed; it is made again when the lists change.

$(BIN)/python:
	$(call make-venv,$(VENV),$(NEWEST_FIRST))

$(VENV)/.run: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[test,neighbours]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[bench]'
	@touch $@ $(VENV)/.run

$(VENV)/.docs: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[docs]'
	@touch $@ $(VENV)/.run

$(VENV)/.dev: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[dev,neighbours]'
	@touch $@ $(VENV)/.test $(VENV)/.run

# First with the authorities that node brings; then with the system's, which know a company's proxy.
NPM_CI = npm ci --prefix $(1) --ignore-scripts --no-audit --no-fund --loglevel
npm-ci = $(call NPM_CI,$(1)) silent --fetch-retries 0 || NODE_OPTIONS=--use-openssl-ca $(call NPM_CI,$(1)) error
$(NPM_MODULES): $(NPM_FOLDER)/package-lock.json
	@if $(call npm-ci,$(NPM_FOLDER)); then touch $@; \
	else echo "npm did not install the authorization server: its tests skip"; fi

$(SITE_MODULES): $(SITE_FOLDER)/package-lock.json
	@if $(call npm-ci,$(SITE_FOLDER)); then touch $@; \
	else echo "the site was not looked at: npm did not install what does it; wanted are node 20 with npm" >&2; exit 1; fi

# From nothing each time the lists change: an old environment would keep versions that the new lists do not name.
$(FLOORS_VENV)/.test: setup.cfg pyproject.toml tests/floors.txt
	rm -rf $(FLOORS_VENV)
	$(call make-venv,$(FLOORS_VENV),$(OLDEST_FIRST))
	$(FLOORS_VENV)/bin/python $(PIP_INSTALL) --constraint tests/floors.txt --editable '.[test]'
	@touch $@

$(CLIENTS_VENV)/.test: setup.cfg pyproject.toml tests/clients/requirements.txt
	rm -rf $(CLIENTS_VENV)
	$(call make-venv,$(CLIENTS_VENV),$(NEWEST_FIRST))
	$(CLIENTS_VENV)/bin/python $(PIP_INSTALL) --editable '.[test]' --requirement tests/clients/requirements.txt
	@touch $@

# The tools' version stands in protos/generate; its docstring says why setuptools is held back.
$(PROTOS_VENV)/.tools: protos/generate
	rm -rf $(PROTOS_VENV)
	$(call make-venv,$(PROTOS_VENV),$(OLDEST_FIRST))
	$(PROTOS_VENV)/bin/python $(PIP_INSTALL) 'setuptools<81' grpcio-tools==$(shell sed -n 's/^TOOLS = "\(.*\)"/\1/p' $<)
	@touch $@
