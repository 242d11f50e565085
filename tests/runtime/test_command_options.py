"""Records of options as a command line, and as keywords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from vcut_runtime import UsageError
from vcut_runtime.command_options import check_numbers, check_types, merge, option, takes_options


def level(text: str) -> int | Literal["off"]:
    if text == "off":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"level is {text!r}: give a number, or off") from None


@dataclass(frozen=True)
class Paint:
    """Options of a made-up command."""

    size: int = option(3, "Size in pixels.", least=1, most=100)
    depth: float | None = option(None, "Depth in metres. [default: measured]", "--depth", "-d", least=0)
    mode: Literal["fast", "good"] = option("good", "How to paint.")
    tone: Literal["dark", "light"] | None = option(None, "Tone. [default: none]")
    level: int | Literal["off"] | None = option(None, "Level. [default: chosen]", parse=level)
    colours: tuple[str, ...] = option((), "Colours, one after the other.", "--colour")
    shiny: bool = option(True, "Whether it shines.", "--shiny/--no-shiny")
    hidden: int = option(7, "Not of the command line.", command=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)


@dataclass(frozen=True)
class Frame:
    """Options of the same command."""

    border: int = option(0, "Width of the border.", keeps="all")


Invoke = Callable[..., Any]


@pytest.fixture
def invoke() -> Invoke:
    """Call the made-up command and return what it got, or the result if it failed."""
    app, calls = typer.Typer(), []

    @app.command()
    @takes_options
    def paint(
        wall: Annotated[str, typer.Argument(help="The wall.", show_default=False)],
        paint: Paint,
        frame: Frame,
        count: Annotated[int, typer.Option(help="How many.")] = 1,
    ) -> None:
        """Paint a wall."""
        calls.append((wall, paint, frame, count))

    def call(*arguments: str) -> Any:
        calls.clear()
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        return calls[0] if calls else result

    return call


def test_without_flags_a_command_gets_the_defaults(invoke: Invoke) -> None:
    assert invoke("north") == ("north", Paint(), Frame(), 1)


def test_flags_fill_the_records(invoke: Invoke) -> None:
    flags = (
        "--size 5 -d 0.5 --mode fast --tone dark --level 9 --colour red --colour blue --no-shiny --border 2 --count 4"
    )
    paint = Paint(5, 0.5, "fast", "dark", 9, ("red", "blue"), shiny=False)
    assert invoke("north", *flags.split()) == ("north", paint, Frame(2), 4)
    assert invoke("north", "--level", "off")[1] == Paint(level="off")


def test_help_shows_every_flag_with_its_text_and_default(invoke: Invoke) -> None:
    shown = " ".join(invoke("--help").output.split())
    assert "Paint a wall." in shown
    for words in ("--size", "Size in pixels. [default: 3]", "--shiny", "--no-shiny", "--depth -d", "--border"):
        assert words in shown.replace(",", " ").replace("  ", " "), words
    for text in ("Depth in metres. [default: measured]", "Level. [default: chosen]", "Tone. [default: none]"):
        assert text in shown
    assert "How to paint. [default: good]" in shown
    assert "Colours, one after the other. │" in shown
    assert "hidden" not in shown


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--mode", "slow"], "unknown mode 'slow': choose fast, good"),
        (["--tone", "grey"], "unknown tone 'grey': choose dark, light"),
        (["--level", "high"], "level is 'high': give a number, or off"),
        (["--size", "0"], "size is 0: give at least 1"),
        (["--size", "99999999999999999999"], "size is 99999999999999999999: give at most 100"),
        (["--depth", "nan"], "depth is nan: give a finite number"),
        (["--depth", "1e39"], "depth is 1e+39: give a number that is finite in float32"),
        (["--depth", "-0.5"], "depth is -0.5: give at least 0"),
    ],
)
def test_a_wrong_value_is_misuse(invoke: Invoke, flags: list[str], says: str) -> None:
    error = invoke("north", *flags).exception
    assert isinstance(error, UsageError)
    assert str(error) == says


@pytest.mark.parametrize("flags", [["--size", "large"], ["--hidden", "1"], ["--sise", "1"], ["--depth"]])
def test_flags_that_typer_refuses(invoke: Invoke, flags: list[str]) -> None:
    assert invoke("north", *flags).exit_code == 2


def test_merge_takes_a_record_keywords_or_both() -> None:
    assert merge(Paint, None, {}) == Paint()
    assert merge(Paint, None, {"size": 4}) == Paint(size=4)
    record = Paint(size=4, mode="fast")
    assert merge(Paint, record, {}) == record
    assert merge(Paint, record, {"size": 5, "hidden": 1}) == Paint(size=5, mode="fast", hidden=1)
    with pytest.raises(UsageError, match="size is 0"):
        merge(Paint, record, {"size": 0})


@pytest.mark.parametrize(
    ("keyword", "says"),
    [
        ("sizes", "unknown option 'sizes': did you mean size?"),
        ("Mode", "unknown option 'Mode': did you mean mode?"),
        ("zzz", "unknown option 'zzz': choose from size, depth, mode, tone, level, colours, shiny, hidden"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_closest_one(keyword: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        merge(Paint, Paint(), {keyword: 1})
    assert str(caught.value) == says


def test_further_facts_about_a_field_are_kept() -> None:
    (border,) = Frame.__dataclass_fields__.values()
    assert border.metadata["keeps"] == "all"
    assert border.metadata["about"] == "Width of the border."
