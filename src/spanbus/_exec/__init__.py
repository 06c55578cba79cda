"""``spanbus exec``: start a command, forward signals to it, and record it in the background."""
