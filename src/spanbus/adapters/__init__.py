"""Adapters: one module for each library that ``spanbus.instrument`` knows."""
