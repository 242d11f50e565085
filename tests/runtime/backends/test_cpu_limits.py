"""What the CPU is asked for, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from example_manifest import example
from vcut_bench.results_page import newest
from vcut_runtime import UsageError, VcutError
from vcut_runtime.backends import cpu_limits
from vcut_runtime.backends.cpu_limits import CpuModel, check_cpu
from vcut_runtime.bundle.geometry import Sizes

STEPS = ("semantic_binding", "quality_improvement")
MODEL = replace(CpuModel.of(example()), unet={"num_attention_heads": [5, 10, 20, 20]})
SIZES = MODEL.geometry.sizes


def machine(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(cpu_limits, "total_memory", lambda: memory)


@pytest.mark.parametrize("heads", [5, [5, 10]])  # diffusers takes both
def test_without_flash_attention_a_step_writes_out_its_scores(heads: int | list[int]) -> None:
    cpu, gpu = (
        replace(MODEL, operators=operators, unet={"num_attention_heads": heads}) for operators in ("cpu", "gpu")
    )
    sizes = Sizes(3, 128, 96)
    for graph, rows in zip(STEPS, (2, 1), strict=True):
        scores = gpu.step_memory(graph, sizes) - cpu.step_memory(graph, sizes)
        assert scores == rows * 3 * 5 * 192**2 * 4


def test_memory_grows_with_the_video() -> None:
    weights = MODEL.step_memory("quality_improvement", Sizes(0, 64, 96))
    one, two = (MODEL.step_memory("quality_improvement", Sizes(frames, 64, 96)) - weights for frames in (1, 2))
    assert weights == pytest.approx(4 * 1.3238e9 + 0.6e9, rel=1e-3)
    assert two == 2 * one > 0
    assert MODEL.step_memory("semantic_binding", Sizes(1, 64, 96)) - weights == 2 * one


def test_memory_as_it_was_measured() -> None:
    """SVD-XT at 576x1024 in fp32: the peaks of whole processes."""
    result = json.loads(newest("full-size-cpu").read_text())
    for step in result["measured"]:
        if step["what"].startswith("vcut") and "peak_bytes" in step:
            graph = STEPS[0] if "guided" in step["what"] else STEPS[1]
            estimate = MODEL.step_memory(graph, Sizes(step["frames"], 576, 1024))
            assert estimate == pytest.approx(step["peak_bytes"], rel=0.1)


def test_a_whole_video_fits_on_16_gigabytes_and_without_guidance_on_12(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sizes(25, 576, 1024)
    machine(monkeypatch, 16 << 30)
    check_cpu(MODEL, whole, STEPS)
    machine(monkeypatch, 12 << 30)
    check_cpu(MODEL, whole, ["quality_improvement"])
    with pytest.raises(VcutError, match=r"a guided step of 25 frames of 576x1024 needs about 14 GiB") as caught:
        check_cpu(MODEL, whole, STEPS)
    assert "leave out guidance with --max-guidance-scale 1, or export at most 18 frames" in str(caught.value)


def test_a_step_that_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, MODEL.step_memory("semantic_binding", SIZES))
    check_cpu(MODEL, SIZES, ["condition", *STEPS, "decode"])


def test_a_refusal_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = SIZES._replace(frames=25)
    guided = (MODEL.step_memory("semantic_binding", sizes._replace(frames=frames)) for frames in (0, 1))
    weights, one = guided
    machine(monkeypatch, weights + 14 * (one - weights))
    with pytest.raises(VcutError, match=r"a guided step of 25 frames of \d+x\d+ needs about .* GiB") as caught:
        check_cpu(MODEL, sizes, STEPS)
    assert not isinstance(caught.value, UsageError)
    assert "leave out guidance with --max-guidance-scale 1, or export at most 14 frames" in str(caught.value)
    check_cpu(MODEL, sizes, ["quality_improvement"])
    machine(monkeypatch, weights - 1)
    with pytest.raises(VcutError, match=r"this machine has \d+ GiB: run it on a GPU$"):
        check_cpu(MODEL, sizes, STEPS)


def test_a_bundle_for_gpus_is_told_to_be_exported_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Sizes(25, 576, 1024)
    machine(monkeypatch, MODEL.step_memory("semantic_binding", large))
    with pytest.raises(VcutError, match="export with --precision fp32 --operators cpu"):
        check_cpu(replace(MODEL, operators="gpu"), large, STEPS)


def test_bf16_is_refused() -> None:
    with pytest.raises(UsageError, match="a bf16 bundle needs a GPU"):
        check_cpu(replace(MODEL, precision="bf16"))


def test_a_long_step_is_estimated_and_a_short_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MODEL.step_seconds("semantic_binding", Sizes(1, 64, 64), None) == 0
    monkeypatch.setattr(cpu_limits, "_macs_per_second", lambda: 1e11)
    monkeypatch.setattr(cpu_limits, "usable_cpus", lambda: 4)
    large = Sizes(25, 576, 1024)
    all_cores = MODEL.step_seconds("quality_improvement", large, None)
    assert 38e12 / 1e11 < all_cores < 38e12 / 1e11 * 4
    assert MODEL.step_seconds("quality_improvement", large, 8) == all_cores
    assert MODEL.step_seconds("quality_improvement", large, 1) == pytest.approx(4 * all_cores)
    assert MODEL.step_seconds("semantic_binding", large, None) == pytest.approx(2 * all_cores)


def test_the_speed_of_this_machine_is_measured() -> None:
    assert 1e8 < cpu_limits._macs_per_second() < 1e14
