# spanbus: `make` lists the targets.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
RUN_STAMP := $(VENV)/.run
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
COMPILED := .compiled

# Tests start some thousand processes. Without stored bytecode each would compile the modules of src that it loads, which is half of its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all coverage test-measured coverage-gate check docs dist bench compile test-compiled fuzz soak test-browser test-adapters clean

help: ## list the targets
	@grep -hE "^[a-z-]+:.*## " $(MAKEFILE_LIST) | sed -e "s/:.*## /\t/" | expand -t 14

setup: $(STAMP) ## create .venv beside the sources, with all dependencies pinned

$(RUN_STAMP): requirements/run.txt pyproject.toml
	@set -e; \
	for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		if command -v $$python >/dev/null 2>&1 && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "spanbus needs Python 3.11 or newer, and none was found on the PATH" >&2; exit 2; fi; \
	if [ ! -x $(PY) ]; then echo "creating $(VENV) with $$($$found --version)"; $$found -m venv $(VENV); fi; \
	echo "installing the dependencies of spanbus (requirements/run.txt)"; \
	$(PIP) --require-hashes -r requirements/run.txt; \
	$(PIP) --no-deps --no-build-isolation -e .; \
	touch $(RUN_STAMP)

$(STAMP): $(RUN_STAMP) requirements/dev.txt requirements/brokers.txt
	@set -e; \
	echo "installing the dependencies of tests and checks (requirements/dev.txt, brokers.txt)"; \
	$(PIP) --require-hashes -r requirements/dev.txt -r requirements/brokers.txt; \
	touch $(STAMP)

SERVERLESS := not browser and not stack and not compose and not adapters and not brokers

test: setup ## tests without a server; no slow tests, fewer examples for each property (docs/decisions/0017)
	TESTS=quick $(PY) -m pytest -n auto --dist worksteal -m "$(SERVERLESS) and not slow"

test-slow: setup ## tests that make test leaves out: slow ones, and properties with all examples
	$(PY) -m pytest -n auto --dist worksteal -m "$(SERVERLESS) and (slow or hypothesis)"

test-all: test test-slow ## all tests that need no server, on all cores

coverage: test-measured ## make test with branch coverage, at least fail_under of pyproject.toml
	@$(MAKE) --no-print-directory coverage-gate

test-measured: setup # first half of make coverage: docs/decisions/0021-coverage-counts-every-process.md
	@rm -f .coverage .coverage.*
	TESTS=quick $(PY) -m coverage run -m pytest -n auto --dist worksteal -m "$(SERVERLESS) and not slow"

coverage-gate: setup # second half: combine and judge
	@$(PY) -m coverage combine --quiet && $(PY) -m coverage report --skip-covered --skip-empty

demo: $(RUN_STAMP) ## run a small workflow, with its trace, metrics and alert; under a minute
	@$(VENV)/bin/spanbus demo

check: setup ## lint, import contracts, types, documents: a workflow of pyproject.toml, run by spanbus
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/spanbus run check --quiet

docs: $(VENV)/.docs ## build the site in site/; a broken link or an unlisted page is an error
	@$(PY) tools/command_line.py --check
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

$(VENV)/.docs: $(STAMP) requirements/docs.txt
	@$(PIP) --require-hashes -r requirements/docs.txt
	@touch $@

compile: $(COMPILED)/.built ## compile the hot modules with mypyc into .compiled; needs a C compiler

$(COMPILED)/.built: $(STAMP) $(shell find src -name "*.py")
	@rm -rf $(COMPILED); echo "compiling, which takes a minute or two"
	@$(PY) -m hatchling build -t sdist -d $(COMPILED)/source >/dev/null 2>&1  # not in place: compiled modules would shadow the sources
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--target $(COMPILED) $(COMPILED)/source/spanbus-*.tar.gz
	@PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -c "import spanbus._correlation.correlator as it; assert not it.__file__.endswith('.py'), it.__file__"
	@touch $@

COMPILED_ROOMS := tests/tour tests/otlp tests/reading tests/correlation tests/telemetry tests/delivery

test-compiled: compile ## the tour and the tests of compiled rooms, against the compiled build
	PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -m pytest -n auto --dist worksteal $(COMPILED_ROOMS)

fuzz: setup ## arbitrary input for all parsers of foreign data, FUZZ_EXAMPLES for each (default 20000)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(PY) -m pytest -n auto --dist worksteal --timeout 14400 tests/security/test_fuzz.py tests/security/test_hostile_stream.py tests/security/test_redaction_is_linear.py

soak: setup ## a service against a backend that is killed repeatedly, for SOAK_SECONDS (default 300)
	$(PY) tools/soak.py $${SOAK_SECONDS:-300}

test-browser: setup ## test the page in a real browser; needs chromium
	$(PY) -m pytest -m browser

test-adapters: setup ## test the adapters against the real libraries, each in an environment of its own
	tools/test-adapters

dist: setup ## build the distributions, and test each in an empty environment
	tools/check-dist

bench: setup ## benchmarks, as ratios against yardsticks; compiled if there is a C compiler, or BUILD=interpreted
	@if [ "$(BUILD)" != interpreted ] && command -v cc >/dev/null 2>&1; then \
		$(MAKE) --no-print-directory compile && PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -m bench; \
	else $(PY) -m bench; fi

clean: ## remove all build products
	rm -rf $(VENV) $(COMPILED) .pytest_cache .ruff_cache .hypothesis build dist

-include make/stack.mk
