"""Implementation of :mod:`spanbus.testing`."""
