"""A table of measured numbers as one record, and the three ways to show it: terminal, Markdown and HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement


@dataclass(frozen=True)
class Numbers:
    """A table whose cells are text already.

    Attributes:
        title: what the table shows, in a few words.
        head: a name for each column; the first column names its row.
        rows: as many cells as the head has.
        note: what a reader must know to read the cells, in a sentence or two.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def is_numeric(self, column: int) -> bool:
        """Return whether most cells of a column are numbers, which stand to the right."""
        cells = [row[column] for row in self.rows if row[column]]
        return column > 0 and 2 * sum(cell[0] in "0123456789+-±" for cell in cells) > len(cells)


def terminal(numbers: Numbers) -> Any:
    """Return a Rich table without a frame. Numbers stay on one line; heads and words wrap where 80 columns need it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(numbers.title), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    if numbers.note:
        table.caption, table.caption_justify = Text(numbers.note), "left"
    for i, name in enumerate(numbers.head):
        if numbers.is_numeric(i):
            width = max(len(row[i]) for row in numbers.rows)
            head = textwrap.fill(name, max(width, 5), break_long_words=False)
            table.add_column(Text(head), justify="right", no_wrap=True)
        else:
            table.add_column(Text(name), overflow="fold")
    for row in numbers.rows:
        table.add_row(*map(Text, row))
    return table


def show(tables: Iterable[Numbers]) -> None:
    """Print tables on standard output."""
    from vcut_runtime.terminal import stdout

    for numbers in tables:
        stdout.print(terminal(numbers))


def markdown(numbers: Numbers) -> str:
    """Return the title in bold, the table and the note as Markdown paragraphs."""
    return "\n\n".join(part for part in (f"**{numbers.title}**", table(numbers), numbers.note) if part)


def table(numbers: Numbers) -> str:
    """Return the table alone, in Markdown."""
    lines = [numbers.head, ["---:" if numbers.is_numeric(i) else "---" for i in range(len(numbers.head))]]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in [*lines, *numbers.rows])


def html(numbers: Numbers) -> Element:
    """Return the table, which scrolls sideways on a narrow screen, with its note below."""
    block = element(None, "div", class_="numbers")
    table = element(element(block, "div", class_="scroll", tabindex=0), "table")
    element(table, "caption", numbers.title)
    kinds = ["number" if numbers.is_numeric(i) else "words" for i in range(len(numbers.head))]
    line = element(element(table, "thead"), "tr")
    for kind, name in zip(kinds, numbers.head, strict=True):
        element(line, "th", name, scope="col", class_=kind)
    body = element(table, "tbody")
    for row in numbers.rows:
        line = element(body, "tr")
        element(line, "th", row[0], scope="row")
        for kind, cell in zip(kinds[1:], row[1:], strict=True):
            element(line, "td", cell, class_=kind)
    if numbers.note:
        element(block, "p", numbers.note, class_="note")
    return block


def element(parent: Element | None, tag: str, text: str = "", /, **attributes: Any) -> Element:
    """Return a new element in ``parent``; an attribute ``class_`` is ``class``, and ``_`` in names is ``-``."""
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    made = Element(tag, named) if parent is None else SubElement(parent, tag, named)
    made.text = text or None
    return made


def _escape(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())
