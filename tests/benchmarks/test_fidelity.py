"""Fidelity against unmodified diffusers: the figures, going on where a run stopped, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reference as independent
from vcut_bench import compiled, fidelity, reference, work
from vcut_bench.takes import Takes
from vcut_runtime import Pipeline, UsageError, open_bundle

CUTS = [1, 3]  # of the small bundle's 4 steps


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs with names that no shell, no table and no JSON writer would like."""
    from skimage import data

    folder = tmp_path_factory.mktemp("images")
    for name, pixels in (("-rf [red]$(x)\n'\".png", data.astronaut()), ("%2f..\u00e9 --json.PNG", data.chelsea())):
        Image.fromarray(pixels).save(folder / name, format="PNG")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image either")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work") / "work"


def measure(bundle: Path, checkpoint: Path, images: Path, kept: Path) -> dict[str, Any]:
    return fidelity.measure(
        [bundle],
        images,
        reference=str(checkpoint),
        tca=["remove", "fold"],
        quality_bias=["mean", "cond"],
        cut_steps=CUTS,
        seeds=2,
        work=kept,
        backend="onnxruntime-cpu",
    )


@pytest.fixture(scope="module")
def result(small_bundle: Path, small_checkpoint: Path, images: Path, kept: Path) -> dict[str, Any]:
    return measure(small_bundle, small_checkpoint, images, kept)


def curve(result: dict[str, Any], tca: str, bias: str = "mean") -> dict[int | str, dict[str, Any]]:
    own = [c for c in result["curves"] if (c["tca"], c["quality_bias"]) == (tca, bias)]
    return {c["cut_step"]: c for c in own}


def test_folded_and_never_cut_is_diffusers(result: dict[str, Any]) -> None:
    never = curve(result, "fold")["none"]
    assert never["psnr"]["mean"] - never["psnr"]["std"] >= 50
    assert never["ssim"]["mean"] > 0.999
    assert never["temporal"]["mean"] < 1
    assert never["motion"]["mean"] == pytest.approx(result["baseline"]["motion"]["mean"], rel=1e-2)


def test_every_setting_is_a_point_of_its_curve(result: dict[str, Any]) -> None:
    assert result["benchmark"] == "fidelity"
    for tca in ("remove", "fold"):
        for bias in ("mean", "cond"):
            assert list(curve(result, tca, bias)) == ["none", *CUTS]
    for point in result["curves"]:
        assert point["psnr"]["n"] == 4  # two images, two seeds
        assert point["psnr"]["low"] <= point["psnr"]["mean"] <= point["psnr"]["high"]


def test_what_differs_from_diffusers_shows(result: dict[str, Any]) -> None:
    """Each approximation costs something: removing TCA, cutting, and the bias that is averaged."""
    fold, remove = curve(result, "fold"), curve(result, "remove")
    assert remove["none"]["psnr"]["mean"] < fold["none"]["psnr"]["mean"] - 5
    for cut in CUTS:
        assert fold[cut]["psnr"]["mean"] < fold["none"]["psnr"]["mean"] - 5
        assert fold[cut]["temporal"]["mean"] > fold["none"]["temporal"]["mean"]
        assert fold[cut]["psnr"]["mean"] != curve(result, "fold", "cond")[cut]["psnr"]["mean"]
    assert fold[1]["psnr"]["mean"] < fold[3]["psnr"]["mean"]
    assert remove["none"] != curve(result, "remove", "cond")[1]
    assert curve(result, "remove", "cond")["none"] | {"quality_bias": "mean"} == remove["none"]  # nothing to tell apart


def test_the_monotone_claim_is_the_datas(result: dict[str, Any]) -> None:
    for claim in result["monotone"]:
        points = curve(result, claim["tca"], claim["quality_bias"])
        means = [point["psnr"]["mean"] for cut, point in points.items() if cut != "none"]
        assert claim["psnr_rises_with_cut_step"] == (means == sorted(means))
        assert bool(claim["falls_at"]) != claim["psnr_rises_with_cut_step"]
    points = [
        {"tca": "fold", "quality_bias": "mean", "cut_step": cut, "psnr": {"mean": mean}}
        for cut, mean in (("none", 60), (10, 20), (11, 22), (12, 21), (13, 30))
    ]
    assert fidelity.monotone(points)[0]["falls_at"] == [12]


def test_shared_first_steps_change_nothing(small_bundle: Path, images: Path) -> None:
    """A cut that starts from the never-cut video's latents is the video that is cut there, to the bit."""
    pipeline = Pipeline.load(small_bundle, "onnxruntime-cpu")
    m = pipeline.manifest
    pixels = work.load_input(work.find_images(images)[0], m.height, m.width, "crop").pixels
    noise, latents = reference.draw(m, 7)
    takes = Takes(pipeline, pixels, noise, latents)
    for (bias, cut), frames in compiled.sweep(takes, m, [("mean", 3), ("cond", 1), (None, None)], 4):
        options: Any = {"cut_step": "none"} if bias is None else {"cut_step": cut, "quality_bias": bias}
        whole = pipeline(pixels, num_inference_steps=4, latents=latents, noise=noise, **options)
        np.testing.assert_array_equal(frames, whole.frames)


def test_a_cache_interval_is_every_videos(
    deep_bundle: Path, small_bundle: Path, small_checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"reference": str(small_checkpoint), "backend": "onnxruntime-cpu", "cut_steps": [5]}
    measured = {
        interval: fidelity.measure([deep_bundle], images, cache_interval=interval, work=tmp_path / "work", **options)
        for interval in (1, 3)
    }
    assert measured[3]["cache_interval"] == 3
    for exact, cached in zip(measured[1]["curves"], measured[3]["curves"], strict=True):
        assert cached["psnr"]["mean"] != exact["psnr"]["mean"]
    (table,) = fidelity.numbers(measured[3])
    assert table.title.endswith("cache interval 3")
    assert "2 images x 1 seeds" in table.note
    for bundle, interval, words in ((small_bundle, 2, "export them with --deep-cache"), (deep_bundle, 0, "at least 1")):
        with pytest.raises(UsageError, match=words):
            fidelity.measure([bundle], images, cache_interval=interval, **options)
    folded = fidelity.measure([deep_bundle], images, tca=["fold"], cache_interval=3, work=tmp_path / "work", **options)
    assert folded["curves"][0]["psnr"]["mean"] > measured[3]["curves"][0]["psnr"]["mean"]  # compiled with shallow steps


def test_diffusers_gets_the_same_noise(
    small_bundle: Path, small_checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference needs no change to diffusers: it gives what a patched diffusers gives for the drawn noise."""
    import torch

    manifest = open_bundle(small_bundle, hashes=False).manifest
    ref = reference.find_reference(manifest, str(small_checkpoint))
    pixels = work.load_input(work.find_images(images)[0], manifest.height, manifest.width, "crop").pixels
    noise, latents = reference.draw(manifest, 5)
    frames = reference.diffusers_frames(ref, reference.load_diffusers(ref), pixels, 5)
    pipeline = independent.load(small_checkpoint)
    independent.inject(pipeline, monkeypatch, noise)
    size: dict[str, Any] = {"height": manifest.height, "width": manifest.width, "num_frames": manifest.frames}
    output = pipeline(
        Image.fromarray(pixels), **size, num_inference_steps=4, latents=torch.from_numpy(latents), output_type="np"
    )
    np.testing.assert_array_equal(frames, independent.to_uint8(output.frames[0]))
    assert not np.array_equal(reference.draw(manifest, 6)[0], noise)


def test_a_second_run_makes_nothing_again(
    result: dict[str, Any],
    small_bundle: Path,
    small_checkpoint: Path,
    images: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is kept is used; a lost point alone is made again, and so is a damaged one."""
    assert json.loads((kept / "manifest.json").read_text())["seeds"] == [0, 1]
    lost = sorted((kept / "results").glob("fold-*/mean-3/*.json"))
    assert len(lost) == 4
    before = [path.read_text() for path in lost]
    lost[0].unlink()
    lost[1].write_text(before[1][: len(before[1]) // 2])
    made: list[Any] = []
    sweep = fidelity.sweep
    monkeypatch.setattr(fidelity, "sweep", lambda *args, **own: (made.append(args[2]), sweep(*args, **own))[1])

    def never(*_: Any) -> Any:
        raise AssertionError("diffusers ran again")

    monkeypatch.setattr(fidelity, "load_checked", never)
    again = measure(small_bundle, small_checkpoint, images, kept)
    assert made == [[("mean", 3)], [("mean", 3)]]
    assert again["curves"] == result["curves"]
    assert [path.read_text() for path in lost] == before
    assert not [path for path in kept.rglob(".*") if path.is_file()]


def test_an_interrupted_run_leaves_what_it_found(
    small_bundle: Path, small_checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"reference": str(small_checkpoint), "cut_steps": [3], "work": tmp_path / "w", "steps": 3}
    compare = fidelity.metrics.compare
    calls: list[int] = []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compare(*args)

    monkeypatch.setattr(fidelity.metrics, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fidelity.measure([small_bundle], images, **options)
    files = list((tmp_path / "w" / "results").rglob("*.json"))
    assert len(files) == 1
    monkeypatch.setattr(fidelity, "load_checked", lambda *_: pytest.fail("diffusers ran again"))
    result = fidelity.measure([small_bundle], images, **options)
    assert curve(result, "remove")[3]["psnr"]["n"] == 2
    assert len(calls) == 2 + 3


def test_other_models_are_refused(small_bundle: Path, small_checkpoint: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--reference"):  # the manifest knows the folder's name alone
        fidelity.measure([small_bundle], images)
    with pytest.raises(UsageError, match="is not the bundle's model: its unet has block_out_channels"):
        fidelity.measure([small_bundle], images, reference="svd-tiny")
    other = tmp_path / "other"
    shutil.copytree(small_checkpoint, other)
    from safetensors.numpy import load_file, save_file

    path = other / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(key for key in weights if ".transformer_blocks.0.attn2.to_out.0.bias" in key)
    weights[name] = weights[name] * 1.1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="weights of other are not those of the bundle"):
        fidelity.measure([small_bundle], images, reference=str(other), cut_steps=[3], steps=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tca": ["fuse"]}, "unknown --tca 'fuse'"),
        ({"tca": [""]}, "unknown --tca ''"),
        ({"quality_bias": ["median"]}, "unknown --quality-bias 'median'"),
        ({"quality_bias": []}, "unknown --quality-bias"),
        ({"cut_steps": [9]}, "cut step 9 is outside 1..5"),
        ({"seeds": 0}, "seeds is 0: give at least 1"),
        ({"fit": "squeeze"}, "unknown fit"),
        ({"work": __file__}, "is a file"),
        ({"work": Path(__file__).parent}, "holds other files"),
    ],
)
def test_impossible_options_are_refused(
    small_bundle: Path, small_checkpoint: Path, images: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fidelity.measure([small_bundle], images, reference=str(small_checkpoint), **options)


def test_a_work_folder_belongs_to_one_measurement(
    result: dict[str, Any], small_bundle: Path, small_checkpoint: Path, images: Path, kept: Path
) -> None:
    with pytest.raises(UsageError, match="keeps a measurement of other steps"):
        fidelity.measure([small_bundle], images, reference=str(small_checkpoint), steps=3, work=kept)


def test_images_are_checked_first(small_bundle: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    def measured() -> Any:
        return fidelity.measure([small_bundle], tmp_path, reference=str(small_checkpoint))

    with pytest.raises(UsageError, match=r"no image \("):
        measured()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    Image.new("RGB", (60, 60), "red").save(tmp_path / "b.png")
    with pytest.raises(UsageError, match=r"a\.png and b\.png are the same image"):
        measured()
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match=r"b\.png"):
        measured()
    with pytest.raises(UsageError, match="no folder of images"):
        fidelity.measure([small_bundle], tmp_path / "b.png", reference=str(small_checkpoint))


def test_bundles_that_do_not_belong_together(
    small_bundle: Path, edit_manifest: Callable[[Callable[[dict], object]], Path]
) -> None:
    with pytest.raises(UsageError, match="both remove temporal"):
        compiled.open_bundles([small_bundle, small_bundle])
    with pytest.raises(UsageError, match="name one"):
        compiled.open_bundles([])

    def change(manifest: dict) -> None:
        manifest["tca"] = "fold"
        manifest["schedules"]["vcut"].pop()

    changed = edit_manifest(change)
    with pytest.raises(UsageError, match="differ in their steps"):
        compiled.open_bundles([small_bundle, changed])


def test_the_default_cut_steps_are_those_of_25_steps_in_proportion() -> None:
    assert compiled.default_cut_steps(25) == list(range(10, 25))
    assert compiled.default_cut_steps(1) == [1]


def test_the_table_shows_every_point(result: dict[str, Any]) -> None:
    (table,) = fidelity.numbers(result)
    assert len(table.rows) == 1 + len(result["curves"])
    for row, point in zip(table.rows[1:], result["curves"], strict=True):
        assert row[:3] == [f"TCA {point['tca']}", point["quality_bias"], str(point["cut_step"])]
        assert row[3] == f"{point['psnr']['mean']:.1f} ± {point['psnr']['std']:.1f}"
    falls = {claim["tca"]: claim["falls_at"] for claim in result["monotone"] if claim["quality_bias"] == "mean"}
    words = {tca: f"not at {', '.join(map(str, at))}" if at else "at every step" for tca, at in falls.items()}
    assert f"TCA remove, bias mean: {words['remove']}" in table.note
    assert "2 images x 2 seeds" in table.note
