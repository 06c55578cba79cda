# spanbus: `make` lists the targets.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
RUN_STAMP := $(VENV)/.run
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
COMPILED := .compiled

# Tests start some thousand processes; without stored bytecode each of them would compile what it loads of src, which is half of a start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all coverage test-measured coverage-gate check docs dist bench compile test-compiled fuzz soak test-browser test-adapters clean

help: ## list the targets
	@grep -hE "^[a-z-]+:.*## " $(MAKEFILE_LIST) | sed -e "s/:.*## /\t/" | expand -t 14

setup: $(STAMP) ## a .venv with everything pinned, beside the sources

$(RUN_STAMP): requirements/run.txt pyproject.toml
	@set -e; \
	for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		if command -v $$python >/dev/null 2>&1 && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "spanbus needs Python 3.11 or newer, and none was found on the PATH" >&2; exit 2; fi; \
	if [ ! -x $(PY) ]; then echo "making $(VENV) with $$($$found --version)"; $$found -m venv $(VENV); fi; \
	echo "installing what spanbus needs to run (requirements/run.txt)"; \
	$(PIP) --require-hashes -r requirements/run.txt; \
	$(PIP) --no-deps --no-build-isolation -e .; \
	touch $(RUN_STAMP)

$(STAMP): $(RUN_STAMP) requirements/dev.txt requirements/brokers.txt
	@set -e; \
	echo "installing what tests and checks need (requirements/dev.txt, brokers.txt)"; \
	$(PIP) --require-hashes -r requirements/dev.txt -r requirements/brokers.txt; \
	touch $(STAMP)

SERVERLESS := not browser and not stack and not compose and not adapters and not brokers

test: setup ## every room, without the slow tests and with fewer examples for each property: docs/decisions/0017
	TESTS=quick $(PY) -m pytest -n auto --dist worksteal -m "$(SERVERLESS) and not slow"

test-slow: setup ## what make test leaves out: the slow tests, and the properties with all their examples
	$(PY) -m pytest -n auto --dist worksteal -m "$(SERVERLESS) and (slow or hypothesis)"

test-all: test test-slow ## everything a bare machine can run, on all cores

coverage: test-measured ## make test with its coverage of branches, which must not fall below fail_under in pyproject.toml
	@$(MAKE) --no-print-directory coverage-gate

test-measured: setup # one half of make coverage: docs/decisions/0021-coverage-counts-every-process.md
	@rm -f .coverage .coverage.*
	TESTS=quick $(PY) -m coverage run -m pytest -n auto --dist worksteal -m "$(SERVERLESS) and not slow"

coverage-gate: setup # the other half, of what was measured
	@$(PY) -m coverage combine --quiet && $(PY) -m coverage report --skip-covered --skip-empty

demo: $(RUN_STAMP) ## what it is about, in under a minute: a workflow, its trace, metrics and alert
	@$(VENV)/bin/spanbus demo

check: setup ## lint, contracts, types, documents: a workflow in pyproject.toml, run by spanbus itself
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/spanbus run check --quiet

docs: $(VENV)/.docs ## the site in site/, strict: a broken link or an unlisted page is an error
	@$(PY) tools/command_line.py --check
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

$(VENV)/.docs: $(STAMP) requirements/docs.txt
	@$(PIP) --require-hashes -r requirements/docs.txt
	@touch $@

compile: $(COMPILED)/.built ## the way of an event as machine code, in .compiled; needs a C compiler

$(COMPILED)/.built: $(STAMP) $(shell find src -name "*.py")
	@rm -rf $(COMPILED); echo "compiling, which takes a minute or two"
	@$(PY) -m hatchling build -t sdist -d $(COMPILED)/source >/dev/null 2>&1  # not in place: what is compiled would shadow the sources
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--target $(COMPILED) $(COMPILED)/source/spanbus-*.tar.gz
	@PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -c "import spanbus._correlation.correlator as it; assert not it.__file__.endswith('.py'), it.__file__"
	@touch $@

COMPILED_ROOMS := tests/tour tests/otlp tests/reading tests/correlation tests/telemetry tests/delivery

test-compiled: compile ## the tour, and the tests of the rooms that are compiled, against the compiled build
	PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -m pytest -n auto --dist worksteal $(COMPILED_ROOMS)

fuzz: setup ## arbitrary input for whatever reads other people's bytes, FUZZ_EXAMPLES for each (default 20000)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(PY) -m pytest -n auto --dist worksteal --timeout 14400 tests/security/test_fuzz.py tests/security/test_hostile_stream.py tests/security/test_redaction_is_linear.py

soak: setup ## a service against a backend that is killed again and again, SOAK_SECONDS long (default 300): what it did is what is stored
	$(PY) tools/soak.py $${SOAK_SECONDS:-300}

test-browser: setup ## the page in a real browser; needs chromium
	$(PY) -m pytest -m browser

test-adapters: setup ## the adapters against the real libraries, each in an environment of its own
	tools/test-adapters

dist: setup ## build what is published, and try each part in empty environments
	tools/check-dist

bench: setup ## ratios against yardsticks, in one table; compiled where there is a C compiler, or BUILD=interpreted
	@if [ "$(BUILD)" != interpreted ] && command -v cc >/dev/null 2>&1; then \
		$(MAKE) --no-print-directory compile && PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -m bench; \
	else $(PY) -m bench; fi

clean: ## remove what was built
	rm -rf $(VENV) $(COMPILED) .pytest_cache .ruff_cache .hypothesis build dist

-include make/stack.mk
