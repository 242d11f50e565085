"""GPU names as people type them, and the capabilities they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut_engines.gpus import COMPUTE_CAPABILITIES, compute_capability
from vcut_runtime import UsageError

NAMES = [(name, capability) for capability, names in COMPUTE_CAPABILITIES.items() for name in names]


def refusal(gpu: str) -> str:
    """The one line that an unknown GPU is refused with."""
    with pytest.raises(UsageError) as caught:
        compute_capability(gpu)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert repr(gpu) in message
    return message


@pytest.mark.parametrize(
    ("gpu", "capability"),
    [
        ("a10", "8.6"),
        ("A10G", "8.6"),
        ("NVIDIA A10G", "8.6"),
        ("RTX 4090", "8.9"),
        ("rtx-4090", "8.9"),
        ("rtx_4090", "8.9"),
        ("4090", "8.9"),
        ("NVIDIA GeForce RTX 4090", "8.9"),
        ("geforce rtx 3060", "8.6"),
        ("3060 Ti", "8.6"),
        ("Tesla T4", "7.5"),
        ("Quadro RTX 6000", "7.5"),
        ("RTX 6000 Ada", "8.9"),
        ("A6000", "8.6"),
        ("NVIDIA RTX A6000", "8.6"),
        ("H100", "9.0"),
        ("gb200", "10.0"),
        ("rtx 5090", "12.0"),
        (" a10 ", "8.6"),
        ("8.6", "8.6"),
        ("86", "8.6"),
        ("sm86", "8.6"),
        ("sm8.6", "8.6"),
        ("SM_89", "8.9"),
        ("sm_120", "12.0"),
        ("12.1", "12.1"),
        ("sm 75", "7.5"),
    ],
)
def test_spellings(gpu: str, capability: str) -> None:
    assert compute_capability(gpu) == capability


@pytest.mark.parametrize(("name", "capability"), NAMES)
def test_every_name_of_the_table_however_it_is_written(name: str, capability: str) -> None:
    for written in (name, name.upper(), f"NVIDIA {name}", f"GeForce {name}", " ".join(name)):
        assert compute_capability(written) == capability


@pytest.mark.parametrize("capability", list(COMPUTE_CAPABILITIES))
def test_every_capability_of_the_table_stands_for_itself(capability: str) -> None:
    digits = capability.replace(".", "")
    for written in (capability, f"sm{digits}", f"SM_{digits}", f"sm_{capability}", digits):
        assert compute_capability(written) == capability


def test_no_name_stands_for_two_capabilities() -> None:
    names = [name for name, _ in NAMES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("gpu", "near"),
    [("rtx4091", "rtx4090"), ("rtx 409", "rtx4090"), ("a11", "a10"), ("h1000", "h100"), ("geforce rtx306O", "rtx3060")],
)
def test_an_unknown_name_names_near_ones(gpu: str, near: str) -> None:
    message = refusal(gpu)
    assert "did you mean" in message
    assert near in message
    assert "8.6" in message  # a capability helps whoever has a GPU that the table lacks


@pytest.mark.parametrize("gpu", ["banana", "", " ", "...", "nvidia", "9.9", "sm99", "8.6.0", "-1", "\n", "8\u20286x"])
def test_what_is_like_nothing_is_told_what_is_known(gpu: str) -> None:
    message = refusal(gpu)
    assert "did you mean" in message or all(known in message for known in COMPUTE_CAPABILITIES)
    assert "portable" in message


@given(st.text() | st.from_regex(r"(nvidia |sm_?|rtx ?)?[0-9a-z.]{0,6}", fullmatch=True, alphabet=st.characters()))
def test_any_text_gives_a_capability_or_one_line(gpu: str) -> None:
    message = None
    try:
        assert compute_capability(gpu) in COMPUTE_CAPABILITIES
    except UsageError as error:
        message = str(error)
    if message is not None:
        assert len(message.splitlines()) == 1
        assert message.startswith("unknown GPU ")


@pytest.mark.parametrize(
    ("said", "capability"),
    [("NVIDIA A100-SXM4-80GB", "8.0"), ("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA GeForce RTX 4060 Laptop GPU", "8.9")],
)
def test_what_drivers_say(said: str, capability: str) -> None:
    assert compute_capability(said) == capability
