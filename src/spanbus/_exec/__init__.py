"""``spanbus exec``: starts the command first, passes every signal on, and records it beside."""
