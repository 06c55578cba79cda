"""``spanbus exec``: start a command first, pass signals to it, record it as a run."""
