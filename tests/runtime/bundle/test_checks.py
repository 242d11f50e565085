"""Manifests whose fields have the right types and the wrong content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from example_manifest import TARGET, example
from vcut_runtime.bundle.checks import check_manifest, check_schedule
from vcut_runtime.bundle.manifest import Manifest, decode, encode
from vcut_runtime.schedule import make_schedule

Change = Callable[[dict[str, Any]], object]


def refusal(change: Change, *, deep: bool = False) -> str:
    """Return the one line that the example is refused with after a change to its JSON."""
    value = json.loads(encode(example(deep=deep)))
    change(value)
    manifest = decode(json.dumps(value).encode())
    with pytest.raises(ValueError, match=r".*: .*") as caught:
        check_manifest(manifest)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("deep", [False, True])
def test_the_examples_are_accepted(deep: bool) -> None:
    check_manifest(example(deep=deep))


def row(number: int, **fields: Any) -> Change:
    """Change fields of a row of the schedule ``vcut``, 1-based."""
    return lambda manifest: manifest["schedules"]["vcut"][number - 1].update(fields)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (row(3, graph="encode"), "step 3 runs 'encode', which is not a step graph of this bundle"),
        (row(3, graph="decode"), "step 3 runs 'decode', which is not a step graph of this bundle"),
        (row(3, graph="semantic_binding_shallow"), "step 3 runs 'semantic_binding_shallow', which is not a step graph"),
        (row(20, bias="both"), "step 20 gives the bias 'both' to quality_improvement"),
        (row(3, bias="mean"), "step 3 gives the bias 'mean' to semantic_binding"),
        (row(3, bias="cond"), "step 3 gives the bias 'cond' to semantic_binding"),
        (row(3, graph="quality_improvement"), "step 3 gives the bias 'both' to quality_improvement"),
        (row(1, sigma=0.0), "step 1 has an impossible sigma, coefficient or noise"),
        (row(25, sigma=-0.002), "step 25 has an impossible sigma, coefficient or noise"),
        (row(1, sigma=1e39), "step 1 has an impossible sigma, coefficient or noise"),  # not a float32
        (row(25, sigma=1e-50), "step 25 has an impossible sigma, coefficient or noise"),  # 0 in float32
        (row(4, coefficients=[1e39, 0.0, 0.0]), "step 4 has an impossible sigma, coefficient or noise"),
        (row(4, coefficients=[0.0, 0.0, -1e308]), "step 4 has an impossible sigma, coefficient or noise"),
        (row(4, noise=-1.0), "step 4 has an impossible sigma, coefficient or noise"),
        (row(4, noise=1e39), "step 4 has an impossible sigma, coefficient or noise"),
        (row(4, sigma=700.0), "sigma does not fall at step 4"),
        (lambda m: m["schedules"]["vcut"].reverse(), "sigma does not fall at step 2"),
        (lambda m: m["schedules"]["vcut"].insert(4, m["schedules"]["vcut"][4]), "sigma does not fall at step 6"),
        (lambda m: m["schedules"]["vcut"].clear(), "it has no step"),
    ],
)
def test_a_hostile_schedule_is_refused_and_the_row_is_named(change: Change, says: str) -> None:
    message = refusal(change)
    assert message.startswith("the manifest's schedule 'vcut' is impossible, ")
    assert says in message
    assert message.endswith(": export the bundle again with --force")


def test_every_named_schedule_is_checked() -> None:
    message = refusal(lambda m: m["schedules"]["exact"][24].update(noise=-1.0))
    assert "schedule 'exact' is impossible, step 25" in message
    assert "schedule 'mine' is impossible, it has no step" in refusal(lambda m: m["schedules"].update(mine=[]))


@pytest.mark.parametrize("names", [["vcut"], ["vcut", "exact"]])
def test_a_manifest_without_the_default_schedule_is_refused(names: list[str]) -> None:
    message = refusal(lambda m: [m["schedules"].pop(name) for name in names])
    assert message == "the manifest lacks the schedule 'vcut': export the bundle again with --force"


@pytest.mark.parametrize(
    ("graphs", "says"),
    [
        (["semantic_binding_shallow"], "step 1 is shallow, and no semantic_binding step comes before it"),
        (["quality_improvement_shallow"], "step 1 is shallow, and no quality_improvement step comes before it"),
        (
            ["semantic_binding", "quality_improvement_shallow"],
            "step 2 is shallow, and no quality_improvement step comes before it",
        ),
        (
            ["quality_improvement", "semantic_binding", "quality_improvement_shallow"],
            "step 3 is shallow, and no quality_improvement step comes before it",
        ),
        (["semantic_binding", "semantic_binding_shallow", "semantic_binding_shallow", "semantic_binding"], None),
        (["semantic_binding", "semantic_binding_shallow", "quality_improvement", "quality_improvement_shallow"], None),
        (["quality_improvement", "semantic_binding", "quality_improvement"], None),
    ],
)
def test_a_shallow_step_needs_a_full_step_of_its_stage_before_it(graphs: list[str], says: str | None) -> None:
    manifest = example(deep=True)
    rows = make_schedule([4.0, 3.0, 2.0, 1.0, 0.5], 5)
    schedule = tuple(
        msgspec.structs.replace(step, graph=graph, bias="both" if graph.startswith("semantic") else "mean")
        for step, graph in zip(rows, graphs, strict=False)
    )
    if says is None:
        check_schedule(schedule, manifest)
        return
    with pytest.raises(ValueError, match=says):
        check_schedule(schedule, manifest)


def add_graph(manifest: dict[str, Any]) -> None:
    """Add a graph that no record has; it is a copy of ``decode``."""
    manifest["graphs"]["encode"] = manifest["graphs"]["decode"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (add_graph, "has an unknown graph encode"),
        (lambda m: m["graphs"].pop("decode"), "lacks the graph decode"),
        (lambda m: m.update(deep_features=32), "lacks the graph semantic_binding_shallow"),
        (lambda m: m["graphs"].update(upscale=m["graphs"].pop("decode")), "lacks the graph decode"),
        (lambda m: m["scheduler"].update(sigma_min=700.0), "scheduler constants are impossible"),
        (lambda m: m["scheduler"].update(rho=0.0), "scheduler constants are impossible"),
        (lambda m: m.update(vae_scale_factor=0), "below 1"),
        (lambda m: m.update(decode_overlap=7), "decode_overlap does not fit its decode_chunk"),
        (lambda m: m.update(decode_overlap=-1), "decode_overlap does not fit its decode_chunk"),
        (lambda m: m.update(decode_chunk=15), "decode_chunk is longer than its videos"),
        (lambda m: m.update(decode_chunk=13), "shape of 'latents' in graph decode does not fit its sizes"),
        (
            lambda m: m["graphs"]["decode"]["inputs"].insert(0, {**m["graphs"]["decode"]["inputs"][0], "shape": ["x"]}),
            "lists a tensor of graph decode twice",
        ),
        (lambda m: m["graphs"]["semantic_binding"]["inputs"].pop(4), "shape of 'previous_denoised' in graph"),
        (lambda m: m["graphs"]["semantic_binding"]["outputs"].pop(1), "shape of 'denoised' in graph semantic_binding"),
        (lambda m: m["engines"][TARGET]["engines"]["decode"].update(graph="0" * 64), "another graph"),
    ],
)
def test_a_hostile_manifest_is_refused(change: Change, says: str) -> None:
    assert says in refusal(change)


NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, -1, 2**63, 1e39, 1e-320])


def numbers(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of a number in a JSON tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            yield value, key
        yield from numbers(inner)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.booleans())
def test_any_number_in_any_place_is_accepted_or_refused_on_one_line(data: st.DataObject, deep: bool) -> None:
    value = json.loads(encode(example(deep=deep)))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(numbers(value))))
        container[key] = data.draw(NUMBERS)
    try:
        manifest: Manifest = decode(json.dumps(value).encode())
        check_manifest(manifest)
    except ValueError as error:
        lines = str(error).splitlines()
    else:
        lines = ["accepted"]
    assert len(lines) == 1
