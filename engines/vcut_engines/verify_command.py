"""``vcut verify``: parse, call :func:`vcut_engines.verify.verify`, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_engines.verify import GraphCheck, OutputCheck, VerifyOptions, VerifyResult, verify
from vcut_runtime.command_options import takes_options
from vcut_runtime.errors import VcutError
from vcut_runtime.terminal import JSON, QUIET, print_json, say, stages


@takes_options
def verify_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    options: VerifyOptions,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Compare a bundle's graphs and engines with a reference, through Polygraphy."""
    with stages(quiet or json) as clock:
        result = verify(bundle, options, clock=clock)
    if json:
        print_json(summary(result))
    else:
        show(result, quiet=quiet)
    first = next((check for check in result.checks if check.first), None)
    if first:
        raise VcutError(describe(first))


def show(result: VerifyResult, *, quiet: bool = False) -> None:
    """Print the result on standard error, and on standard output the commands that repeat what differs.

    The first difference is left out: it becomes the command's error.
    """
    lines: list[str] = []
    for check in result.checks:
        if check.first is None:
            worst = max(check.outputs, key=lambda output: output.error / (output.tolerance or 1))
            lines.append(f"{check.graph} on {check.side}: at most {_error(worst)} ({worst.name})")
    lines += [f"{name} not run here: {reason}" for name, reason in result.not_run.items()]
    for line in () if quiet else lines:
        say(line)
    differing = [check for check in result.checks if check.first]
    for check in differing[1:]:
        say(describe(check))
    if result.work and not quiet:
        say(f"inputs and references are in {result.work}")
    for check in differing:
        print(check.command)


def describe(check: GraphCheck) -> str:
    """Return in one line what differs and by how much."""
    output = check.first
    assert output is not None
    text = f"{check.graph} on {check.side} differs: {output.name} is off by {_error(output)}, more than "
    text += f"{output.tolerance:g}"
    if check.layer is None:
        return text
    layer = check.layer
    text += f"; the first to differ is {layer.tensor} of {layer.node}"
    if layer.changed:
        return f"{text}, whose weight {', '.join(layer.changed)} is not the reference's"
    if not layer.confirmed:
        return f"{text}, but not when its inputs are outputs too: an optimisation across operators makes the difference"
    return f"{text}, which reads {', '.join(layer.weights)}" if layer.weights else text


def summary(result: VerifyResult) -> dict[str, Any]:
    """Return ``result`` as what ``--json`` prints. Numbers that JSON does not have are text."""
    checks = []
    for check in result.checks:
        facts: dict[str, Any] = asdict(check)
        facts |= {"differs": check.first.name if check.first else None}
        for output in facts["outputs"]:
            if not float("-inf") < output["error"] < float("inf"):
                output["error"] = str(output["error"])
        checks.append(facts)
    return {
        "checks": checks,
        "not_run": dict(result.not_run),
        "work": None if result.work is None else str(result.work),
    }


def _error(output: OutputCheck) -> str:
    if output.levels:
        return f"{output.error:.0f} of 255 levels"
    return f"{output.error:.1e} of its largest magnitude"
