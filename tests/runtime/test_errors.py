"""Messages are one line that is safe to print, whatever they quote."""

from __future__ import annotations

from pathlib import Path

import pytest

from places import nobody
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


def test_places_that_cannot_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with nobody(tmp_path / "closed"), pytest.raises(UsageError, match=r"the image .* \(Permission denied\): check the"):
        with path_errors(tmp_path / "closed/x", "the image"):
            (tmp_path / "closed/x").is_file()
    with pytest.raises(UsageError, match=r"cannot look at the image y+ \(File name too long\): check the path"):
        with path_errors("y" * 300, "the image"):
            Path("y" * 300).is_file()
    with pytest.raises(UsageError, match="cannot look at the model .*loop"), path_errors("loop", "the model"):
        (tmp_path / "loop").resolve(strict=False)
        raise RuntimeError("Symlink loop")
