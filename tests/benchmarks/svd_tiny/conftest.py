"""Only the photographs that this project's own dependencies ship."""

from __future__ import annotations

import pytest

from svd_tiny import photos


@pytest.fixture(autouse=True)
def installed_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "PHOTOS", tuple(p for p in photos.PHOTOS if p.distribution == "scikit-image"))
