"""Places on the disk that a process may not look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system refuse to look at what is in ``folder``. A mode would not do: tests may run as root."""
    look = os.stat

    def refused(path: Any, *arguments: Any, **keywords: Any) -> os.stat_result:
        if isinstance(path, str | os.PathLike) and folder in Path(os.fspath(path)).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *arguments, **keywords)

    monkeypatch.setattr(os, "stat", refused)
