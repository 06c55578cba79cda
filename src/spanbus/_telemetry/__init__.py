"""Span states become spans, metrics, logs and journal entries, with secrets taken out."""
