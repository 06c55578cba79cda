"""``spanbus up``: receiver, query API, live stream and page over the local store, in one process without Docker."""
