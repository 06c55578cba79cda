"""``spanbus exec``: start the command first, pass all signals on, and record it in a thread."""
