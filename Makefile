# spanbus: `make` lists the targets.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
COMPILED := .compiled

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench compile test-compiled clean

help: ## list the targets
	@grep -hE "^[a-z-]+:.*## " $(MAKEFILE_LIST) | sed -e "s/:.*## /\t/" | expand -t 14

setup: $(STAMP) ## a .venv with everything pinned, beside the sources

$(STAMP): requirements/dev.txt pyproject.toml
	@set -e; \
	for python in python3 python3.13 python3.12 python3.11; do \
		if command -v $$python >/dev/null 2>&1 && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "spanbus needs Python 3.11 or newer, and none was found on the PATH" >&2; exit 2; fi; \
	[ -x $(PY) ] || $$found -m venv $(VENV); \
	echo "installing pinned requirements"; \
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt; \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	$(PY) -m compileall -q -j 0 $(VENV)/lib src >/dev/null 2>&1 || :; \
	touch $(STAMP)

test: setup ## everything a bare machine can run
	$(PY) -m pytest

demo: setup ## what it is about, in under a minute: a workflow, its trace, metrics and alert
	@$(VENV)/bin/spanbus demo

check: setup ## lint, contracts, types, documents: a workflow in pyproject.toml, run by spanbus itself
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/spanbus run check --quiet

compile: $(COMPILED)/.built ## the way of an event as machine code, in .compiled; needs a C compiler

$(COMPILED)/.built: $(STAMP) $(shell find src -name "*.py")
	@rm -rf $(COMPILED); echo "compiling, which takes a minute or two"
	@$(PY) -m hatchling build -t sdist -d $(COMPILED)/source >/dev/null 2>&1  # not in place: what is compiled would shadow the sources
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--target $(COMPILED) $(COMPILED)/source/spanbus-*.tar.gz
	@PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -c "import spanbus.telemetry.recorder as it; assert not it.__file__.endswith('.py'), it.__file__"
	@touch $@

test-compiled: compile ## the same tests against the compiled build
	PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -m pytest

bench: setup ## ratios against yardsticks, in one table; compiled where there is a C compiler, or BUILD=interpreted
	@if [ "$(BUILD)" != interpreted ] && command -v cc >/dev/null 2>&1; then \
		$(MAKE) --no-print-directory compile && PYTHONPATH=$(CURDIR)/$(COMPILED) $(PY) -m bench; \
	else $(PY) -m bench; fi

clean: ## remove what was built
	rm -rf $(VENV) $(COMPILED) .pytest_cache .ruff_cache .hypothesis build dist

-include make/stack.mk
