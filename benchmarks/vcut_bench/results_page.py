"""``benchmarks/RESULTS.md``: its text is a template, its tables are the measured results.

    python -m vcut_bench.results_page

A line ``{{ latency-cpu }}`` of the template becomes the tables of the newest ``results/latency-cpu-DATE.json``, and
below them where the numbers come from. The README's short table is made from the same file.
"""

from __future__ import annotations

import re
from pathlib import Path

from vcut_bench.numbers import Numbers, markdown, table
from vcut_bench.results import load, origin, reading, tables
from vcut_runtime.errors import UsageError

FOLDER = Path(__file__).parents[1]
RESULTS, TEMPLATE, PAGE = FOLDER / "results", FOLDER / "RESULTS.template.md", FOLDER / "RESULTS.md"
README = FOLDER.parent / "README.md"
_SHORT = re.compile(r"(<!-- results: latency -->\n).*?(<!-- end -->)", re.DOTALL)
_SHORT_ROWS = (  # of the latency result's first table
    *("diffusers, eager", "diffusers, torch.compile", "diffusers, AYS, DPM-Solver++", "DeepCache, interval 3"),
    *("vcut, never cut", "vcut, c=17", "vcut, near", "vcut, tuned", "vcut, balanced", "vcut, fast"),
)
_PLACE = re.compile(r"^\{\{ (\S+) \}\}$", re.MULTILINE)


def fill(template: str, results: Path = RESULTS) -> str:
    """Return ``template`` with the tables of ``results`` in their places.

    Raises:
        UsageError: there is no such result, or it is damaged.
    """
    return _PLACE.sub(lambda match: section(newest(match[1], results)), template)


def fill_readme(readme: str, results: Path = RESULTS) -> str:
    """Return ``readme`` with the step loops of the newest latency on a CPU, beside the peers'."""
    path = newest("latency-cpu", results)
    result = load(path)
    with reading(path):
        loops, facts = tables(result)[0], origin(result)
        names = ("step loop", "over diffusers", "PSNR", "converged")
        columns = [0, *(loops.head.index(name) for name in names)]
        rows = {row[0]: [row[i] for i in columns] for row in loops.rows}
        head = ["", "step loop", "over diffusers", "to diffusers' video", "to the converged video"]
        short = Numbers("", head, [rows[name] for name in _SHORT_ROWS if name in rows])
        about = f"{facts['model']}, {facts['size']}; {facts['device']}; {facts['date']}; `{facts['command']}`"
    return _SHORT.sub(lambda match: f"{match[1]}{table(short)}\n\n{about}\n{match[2]}", readme)


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
    README.write_text(fill_readme(README.read_text("utf-8")), "utf-8")
