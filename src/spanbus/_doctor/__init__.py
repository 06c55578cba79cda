"""The checks of ``spanbus doctor``: settings, state directory, servers."""
