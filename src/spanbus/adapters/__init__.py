"""Adapters that ship: one module for each library whose objects ``spanbus.instrument`` knows."""
