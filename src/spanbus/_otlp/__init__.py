"""OTLP as protobuf bytes and as JSON, written and read in one place."""
