"""``spanbus up``: OTLP receiver, query API, live stream and page over the local store, in one process."""
