"""`python -m nbce_rag` is the same as `nbce-rag`."""

from __future__ import annotations

from .cli.main import main

if __name__ == "__main__":
    main()
