"""The C++ library, which ``make cpp`` builds."""

from __future__ import annotations

import pytest

from vcut_c import LIBRARY, Library


@pytest.fixture(scope="session")
def library() -> Library:
    """The library's C interface."""
    if not LIBRARY.is_file():
        pytest.fail(f"there is no C++ library at {LIBRARY}: run 'make cpp'")
    return Library(LIBRARY)
