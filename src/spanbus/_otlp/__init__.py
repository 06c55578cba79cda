"""Encode and decode OTLP, as protobuf and as JSON."""
