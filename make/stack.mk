# The real servers, for maintainers and CI only.
.PHONY: stack test-stack

stack: ## build the real servers of the stack tests (needs Go)
	tools/build-servers

test-stack: setup ## the tests that need the real servers
	$(PY) -m pytest -m stack
