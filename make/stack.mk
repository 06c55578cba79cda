# The real servers, for maintainers and CI only.
.PHONY: stack test-stack test-compose brokers test-brokers test-backlog demo-distributed

stack: ## build the real servers of the stack tests (needs Go)
	tools/build-servers

test-stack: setup ## run the tests that need the real servers
	$(PY) -m pytest -m stack

test-compose: setup ## test docker-compose.yml in containers (Docker, or podman as root on Debian)
	tools/compose-test

brokers: ## build nats-server and a producer for test-brokers (needs Go); check for Redis and RabbitMQ
	tools/build-servers nats producer
	@for each in redis-server rabbitmq-server; do \
		command -v $$each >/dev/null 2>&1 || { echo "$$each is missing: apt-get install redis-server rabbitmq-server" >&2; exit 1; }; \
	done

test-brokers: setup ## test Celery and NATS with real brokers, on loopback
	$(PY) -m pytest -m brokers tests/brokers -n 2 --dist loadfile

test-backlog: setup ## test a backlog of 300,000 events with observers, some minutes; test-brokers uses 66,000
	TESTS_BACKLOG_EVENTS=300000 $(PY) -m pytest -m brokers tests/brokers/test_backlog.py

demo-distributed: setup ## run a workflow over two hosts, with Celery, NATS and a killed observer; needs `make brokers`; under a minute
	@$(PY) examples/distributed/demo.py
