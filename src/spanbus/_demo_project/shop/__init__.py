"""A shop with one bug."""
