"""``python -m vcut_runtime`` is ``vcut``."""

from __future__ import annotations

from vcut_runtime.cli import main

if __name__ == "__main__":
    main()
