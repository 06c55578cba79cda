"""Benchmarks: ratios of spanbus and a yardstick in one run, with interleaved rounds and medians."""
