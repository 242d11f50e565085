"""What commands print: a bundle's text as it is, and every failure on one line."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from rich.console import Console

from vcut_runtime import terminal
from vcut_runtime.inspect import describe, render

HOSTILE = "\x1b]0;owned\x07[red]bold[/x] :smile:\nsecond line" + "long" * 1000


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run a program that raises an error, and return its exit code and what it says."""
    before = signal.getsignal(signal.SIGTERM)

    def run(error: BaseException) -> str:
        app = typer.Typer()

        @app.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(sys, "argv", ["vcut"])
        with pytest.raises(SystemExit) as end:
            terminal.run_app(app, "vcut")
        return f"{end.value.code} {capsys.readouterr().err}"

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "x\x1b[2J"),
            r"1 error: x\x1b[2J: No such file or directory",
        ),
        (OSError(28, "No space left on device"), "1 error: No space left on device: check the path"),
        (PermissionError(13, "Permission denied", "y" * 10000), "1 error: yyy"),
        (MemoryError(), "1 error: out of memory"),
    ],
)
def test_what_no_command_foresaw_is_one_line_too(fails: Callable[..., str], error: BaseException, says: str) -> None:
    said = fails(error)
    assert said.startswith(says)
    assert said.count("\n") == 1
    assert said.strip().isprintable()
    assert len(said) < 2200


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(terminal, "stderr", Console(file=out, markup=False, emoji=False, highlight=False))
    terminal.say((HOSTILE[:34], "bold"), " ", "[/x]")
    assert out.getvalue() == r"\x1b]0;owned\x07[red]bold[/x] :smile:\nse [/x]" + "\n"


def test_inspect_shows_a_bundles_text_escaped_and_cut(edit_manifest: Callable[..., Path]) -> None:
    def change(manifest: dict) -> None:
        manifest["vcut_version"] = manifest["model"]["id"] = HOSTILE
        manifest["schedules"][HOSTILE] = manifest["schedules"]["vcut"]
        manifest["weights"][HOSTILE] = manifest["weights"]["unet.weights"]

    bundle = edit_manifest(change)
    for console in (terminal.stdout, Console(markup=False, emoji=False, width=80)):
        with console.capture() as shown:
            for part in render(describe(bundle, hashes=False)):
                console.print(part)
        text = shown.get()
        assert r"\x1b]0;owned\x07[red]bold[/x] :smile: second line" in " ".join(text.split())
        plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")  # bold is vcut's own
        assert plain.replace("\n", "").isprintable()
        assert len(text) < 20_000
