"""Events become telemetry: correlation, then spans and metrics."""
