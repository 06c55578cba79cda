# The real servers, for maintainers and CI only.
.PHONY: stack test-stack test-compose brokers test-brokers test-backlog demo-distributed

stack: ## build the real servers of the stack tests (needs Go)
	tools/build-servers

test-stack: setup ## the tests that need the real servers
	$(PY) -m pytest -m stack

test-compose: setup ## docker-compose.yml itself, in containers (Docker, or podman as root on Debian)
	tools/compose-test

brokers: ## the brokers of their tests: builds nats-server and a producer (needs Go), looks for Redis and RabbitMQ
	tools/build-servers nats producer
	@for each in redis-server rabbitmq-server; do \
		command -v $$each >/dev/null 2>&1 || { echo "$$each is not there: apt-get install redis-server rabbitmq-server" >&2; exit 1; }; \
	done

test-brokers: setup ## Celery and NATS with real brokers, on loopback
	$(PY) -m pytest -m brokers tests/brokers -n 2 --dist loadfile

test-backlog: setup ## the backlog of observers with all its 300,000 events, some minutes; test-brokers has 66,000
	TESTS_BACKLOG_EVENTS=300000 $(PY) -m pytest -m brokers tests/brokers/test_backlog.py

demo-distributed: setup ## one run over two hosts, in under a minute: phases on Celery workers, events over NATS, an observer killed; needs `make brokers`
	@$(PY) examples/distributed/demo.py
