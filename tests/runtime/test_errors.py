"""Messages are one line that is safe to print, whatever they quote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from places import close
from vcut_runtime import BundleError, UsageError, VcutError
from vcut_runtime.errors import path_errors, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, 日本語 é", "plain words, 日本語 é"),
        ("\x1b[2Jgone\x07", r"\x1b[2Jgone\x07"),
        ("first\n  second\r\nthird", "first second third"),
        ("name\udcff.jpg", r"name\udcff.jpg"),  # a file name that is not UTF-8
        ("\u202egpj.exe", r"\u202egpj.exe"),  # turns the direction of writing
        ("a\x9b31mb", r"a\x9b31mb"),  # ESC [ as one character
        ("[red]x[/x] :smile:", "[red]x[/x] :smile:"),
    ],
)
def test_a_message_is_one_line_without_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()
    for kind in (VcutError, UsageError, BundleError):
        assert str(kind(text)) == shown


def test_a_long_message_keeps_its_cause_and_its_fix() -> None:
    message = str(VcutError(f"cause {'x' * 10**6} fix"))
    assert message.startswith("cause xxx")
    assert message.endswith("xxx fix")
    assert len(message) < 2100


def looked_at(path: Path) -> str:
    """Return what the error says if one looks at ``path``."""
    with pytest.raises(UsageError) as caught, path_errors(path, "the image"):
        path.is_file()
    return str(caught.value)


def test_places_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close(tmp_path / "closed", monkeypatch)
    assert looked_at(tmp_path / "closed/x").endswith("(Permission denied): check the path and its permissions")
    assert re.fullmatch(r"cannot look at the image y+ \(File name too long\): check .*", looked_at(Path("y" * 300)))
