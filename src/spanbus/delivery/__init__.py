"""Bytes to the collector: encoded once, spooled, sent."""

import logging

# A library's warnings are for handlers that the application has set up, not for the standard error of every program.
logging.getLogger("spanbus").addHandler(logging.NullHandler())
