"""Adapters to outside systems, one file each, each optional."""
