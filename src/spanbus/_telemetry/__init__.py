"""Turn span states into spans, metrics, logs and journal entries, redacted."""
