# The real servers, for maintainers and CI only.
.PHONY: stack test-stack test-compose

stack: ## build the real servers of the stack tests (needs Go)
	tools/build-servers

test-stack: setup ## the tests that need the real servers
	$(PY) -m pytest -m stack

test-compose: setup ## docker-compose.yml itself, in containers (Docker, or podman as root on Debian)
	tools/compose-test
