"""``python -m spanbus`` is the ``spanbus`` command."""

from __future__ import annotations

import sys

if not sys.flags.safe_path:  # -m has put the working directory first on the import path
    del sys.path[0]

from spanbus._cli import main

if __name__ == "__main__":
    main()
