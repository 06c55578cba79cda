"""The checks of ``spanbus doctor``: settings, state directory, every server from outside."""
