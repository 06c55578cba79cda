# spanbus: `make` lists the targets.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

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

bench: setup ## ratios against yardsticks, in one table
	@$(PY) -m bench

clean: ## remove what was built
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist

-include make/stack.mk
