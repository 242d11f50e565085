"""``benchmarks/RESULTS.md``: its text is a template, its tables are the measured results.

    python -m vcut_bench.results_page

A line ``{{ latency-cpu }}`` of the template becomes the tables of the newest ``results/latency-cpu-DATE.json``, and
below them where the numbers come from.
"""

from __future__ import annotations

import re
from pathlib import Path

from vcut_bench.numbers import markdown
from vcut_bench.results import load, origin, reading, tables
from vcut_runtime.errors import UsageError

FOLDER = Path(__file__).parents[1]
RESULTS, TEMPLATE, PAGE = FOLDER / "results", FOLDER / "RESULTS.template.md", FOLDER / "RESULTS.md"
_PLACE = re.compile(r"^\{\{ (\S+) \}\}$", re.MULTILINE)


def fill(template: str, results: Path = RESULTS) -> str:
    """Return ``template`` with the tables of ``results`` in their places.

    Raises:
        UsageError: there is no such result, or it is damaged.
    """
    return _PLACE.sub(lambda match: section(newest(match[1], results)), template)


def newest(name: str, results: Path = RESULTS) -> Path:
    """Return the file ``name-DATE.json`` with the latest date.

    Raises:
        UsageError: there is none.
    """
    files = sorted(results.glob(f"{name}-[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].json"))
    if not files:
        raise UsageError(f"no {name}-DATE.json in {results}: measure it, or take it out of the template")
    return files[-1]


def section(path: Path) -> str:
    """Return the tables of a result, and a line about its origin."""
    result = load(path)
    with reading(path):
        parts = [markdown(numbers) for numbers in tables(result)]
        facts = origin(result)
    command = f"`{facts.pop('command')}`"
    return "\n\n".join([*parts, f"*Measured:* {'; '.join([*facts.values(), command])}"])


if __name__ == "__main__":
    PAGE.write_text(fill(TEMPLATE.read_text("utf-8")), "utf-8")
