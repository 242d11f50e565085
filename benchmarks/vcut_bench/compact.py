"""Tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table


def compact_table(title: str, words: Sequence[str], numbers: Sequence[str], remarks: Sequence[str] = ()) -> Table:
    """Return a table without a frame: words in one line each, numbers to the right, remarks in as many as they take."""
    vertical = "top" if remarks else "bottom"  # a remark begins beside its row; a head of several lines ends above
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in words:
        table.add_column(column, no_wrap=True, vertical=vertical)
    for column in numbers:
        table.add_column(column, justify="right", vertical=vertical)
    for column in remarks:
        table.add_column(column, overflow="fold")
    return table
