"""What every vcut command shares: one-line errors with exit codes, JSON, and Rich progress that can be silenced."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from vcut_runtime.errors import VcutError, escaped, printable

JSON = typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
QUIET = typer.Option("--quiet", "-q", help="Show no progress.")

# Texts are printed as they are: brackets and colons of a path or of a bundle are no markup and no emoji.
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)
stdout = Console(highlight=False, markup=False, emoji=False)


def run_app(app: typer.Typer, name: str) -> None:
    """Run a Typer application as a program: exit 0, 1 for a failure, 2 for misuse, 130 when interrupted."""
    code = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a terminated command cleans up too
    try:
        code = typer.main.get_command(app).main(prog_name=name, standalone_mode=False) or 0
    except VcutError as error:
        code = _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError:
        code = _complain("out of memory: close other programs, or choose smaller sizes", 1)
    except OSError as error:  # of a path that no command has looked at beforehand
        where = f"{error.filename}: " if error.filename else ""
        code = _complain(f"{where}{error.strerror or error}: check the path, its permissions and the disk", 1)
    except Exception as error:
        # Typer's parser raises its library's exceptions, whose module differs between Typer versions.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "Abort" in kinds:
            code = _complain("interrupted", 130)
        elif "NoArgsIsHelpError" in kinds:
            code = 2
        elif "ClickException" in kinds:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else name
            code = _complain(f"{error.format_message().rstrip('.')}: see '{path} --help'", 2)  # pyright: ignore
        else:
            raise
    sys.exit(code if isinstance(code, int) else 0)


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def say(*parts: str | tuple[str, str]) -> None:
    """Print a line on standard error. A part is a text, or a text and its style."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    styled = (Text(escaped(text), style) for text, style in pairs)
    stderr.print(Text().join(styled), soft_wrap=True)


@contextmanager
def stages(quiet: bool) -> Iterator[Any]:
    """Yield a function that shows a named stage while it runs and its time when it is done."""

    @contextmanager
    def silent(name: str) -> Iterator[None]:
        yield

    @contextmanager
    def shown(name: str) -> Iterator[None]:
        start = time.perf_counter()
        with stderr.status(Text(name)):
            yield
        say(("✓", "green"), f" {name:32} ", (f"{time.perf_counter() - start:6.1f} s", "dim"))

    yield silent if quiet else shown


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Any]:
    """Yield a ``progress(stage, done, total)`` function that draws one bar per stage."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description:20}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, disable=quiet) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks or done == 0:
                tasks[stage] = bars.add_task(stage.replace("_", " "), total=total)
            bars.update(tasks[stage], completed=done)

        yield progress


@contextmanager
def build_progress(quiet: bool) -> Iterator[Any]:
    """Yield a ``progress(graph, phase, done, total)`` function: a line per engine, with the builder's own phase."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description:34}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}", style="dim", markup=False),
    )
    bars = Progress(*columns, console=stderr, disable=quiet)
    tasks: dict[str, Any] = {}

    def progress(graph: str, phase: str, done: int, total: int) -> None:
        bars.start()  # only now: another display may have been on before
        if graph not in tasks:
            tasks[graph] = bars.add_task(f"engine {graph}", total=1, phase="")
        finished = phase == "done"
        steps = f" {done}/{total}" if total > 1 and done else ""
        bars.update(tasks[graph], phase="" if finished else f"{phase}{steps}", completed=1 if finished else 0)

    try:
        yield progress
    finally:
        if tasks:  # stopping what never started prints an empty line
            bars.stop()


def _complain(message: str, code: int) -> int:
    print(f"error: {printable(message)}", file=sys.stderr)
    return code


def duration(seconds: float) -> str:
    """Return a time in words, rounded: ``40 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
