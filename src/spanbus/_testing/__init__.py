"""The parts of :mod:`spanbus.testing`."""
