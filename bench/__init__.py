"""Ratios of one run: ours against a yardstick, rounds interleaved, medians."""
