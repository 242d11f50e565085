"""Memory, the cache folder and file names of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vcut_runtime.errors import first_line
from vcut_runtime.host import cache_folder, file_name, peak_memory, total_memory


def test_memory_in_use_fits_into_memory() -> None:
    assert 10**7 < peak_memory() < total_memory()


def test_memory_that_cannot_be_told_is_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert total_memory() > 10**18


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("VCUT_CACHE", "")
    assert cache_folder().name == "vcut"


def test_a_name_in_letters_digits_and_dashes() -> None:
    assert file_name("NVIDIA A10G/24 GB") == "nvidia-a10g-24-gb"
    assert file_name("../x") == "---x"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n\n  first  \nsecond"), "first  "),
        (ValueError(), "ValueError"),
        (OSError(" \n "), "OSError"),
        ("text", "text"),
    ],
)
def test_the_first_line_of_an_error(error: object, line: str) -> None:
    assert first_line(error) == line
