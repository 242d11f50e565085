"""``vcut run`` and ``vcut inspect`` as a user calls them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image
from rich.console import Console

from commands import run_here
from fakes import add_fake_engines
from vcut_runtime import cli
from vcut_runtime.inspect import describe, render


@pytest.fixture(scope="module")
def photo_file(photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    photo.save(path)
    return path


def vcut(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from vcut_runtime.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the one line of a failed command."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_run_writes_a_video(small_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.mp4"
    done = vcut("run", small_bundle, photo_file, "-o", output, "--seed", 3, "--fps", 5)
    assert done.returncode == 0, done.stderr
    assert "seed 3" in done.stderr
    with av.open(str(output)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_a_stretched_photograph_is_one_line_and_a_note(small_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (200, 300)).save(tmp_path / "tall.png")
    arguments = ("run", small_bundle, tmp_path / "tall.png", "-o", tmp_path / "out.gif")
    note = "the image of 200x300 is stretched 1.50 x in width to 32x32: --fit crop, pad or blur keeps its shape"
    lines = vcut(*arguments).stderr.splitlines()
    assert [line for line in lines if "is stretched" in line] == [f"tall.png: {note}"]
    assert json.loads(vcut(*arguments, "--json").stdout)["videos"][0]["notes"] == [note]
    assert vcut(*arguments, "-q").stderr == ""
    done = vcut(*arguments, "--fit", "blur", "--output-fps", 4.5, "--quality", 50)
    assert done.returncode == 0, done.stderr
    assert "is stretched" not in done.stderr


def test_the_size_follows_each_photograph(dynamic_bundle: Path, tmp_path: Path) -> None:
    images = [tmp_path / "tall.png", tmp_path / "wide.png"]
    for path, size in zip(images, ((100, 900), (400, 200)), strict=True):
        Image.new("RGB", size).save(path)
    done = vcut("run", dynamic_bundle, *images, "--size", "auto", "-o", tmp_path / "out.gif", "--json")
    assert done.returncode == 0, done.stderr
    videos = json.loads(done.stdout)["videos"]
    assert [(video["height"], video["width"]) for video in videos] == [(48, 24), (24, 48)]
    assert [len(video["notes"]) for video in videos] == [1, 0]
    assert Image.open(tmp_path / "out-2.gif").size == (48, 24)


def test_a_photograph_is_not_replaced_by_its_video(small_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.webp")
    before = (tmp_path / "photo.webp").read_bytes()
    assert "would be replaced by its video" in error(
        vcut("run", small_bundle, tmp_path / "photo.webp", "-o", tmp_path / "photo.webp"), 2
    )
    assert (tmp_path / "photo.webp").read_bytes() == before


def test_run_with_several_images_numbers_the_outputs(small_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    done = vcut("run", small_bundle, photo_file, photo_file, "-o", tmp_path / "out.gif", "--seed", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    videos = json.loads(done.stdout)["videos"]
    assert [Path(video["output"]).name for video in videos] == ["out-1.gif", "out-2.gif"]
    assert [video["seed"] for video in videos] == [1, 2]
    assert all(Path(video["output"]).is_file() for video in videos)
    assert set(videos[0]["seconds"]) >= {"condition", "semantic_binding", "quality_improvement", "decode"}


def test_quiet_is_quiet(small_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    done = vcut("run", small_bundle, photo_file, "-o", tmp_path / "frames", "--quiet", "--cut-step", "none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list((tmp_path / "frames").glob("frame-*.png"))) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "out.avi"], "unknown output"),
        (["-o", ".mp4"], ".mp4 has a suffix and no name: name it as out.mp4"),
        (["-o", "/dev/null"], "/dev/null is a device or a pipe: name a file"),
        (["-o", "x" * 252 + ".mp4"], "is longer than 255 bytes; choose a shorter one"),
        (["--quality", "0"], "quality is 0: give 1 to 100"),
        (["--size", "large"], "unknown size 'large': choose auto"),
        (["--cut-step", "9"], "outside 1..5"),
        (["--cut-step", "soon"], "is not a number"),
        (["--quality-bias", "median"], "unknown quality_bias 'median': choose mean, cond"),
        (["--fit", "zoom"], "unknown fit 'zoom': choose stretch, crop, pad, blur"),
        (["--schedule", "quick"], "unknown schedule 'quick': choose vcut, exact, balanced, fast"),
        (["--sigmas", "1,2,0"], "sigmas must be positive and fall from step to step"),
        (["--solver", "heun"], "unknown solver 'heun': choose euler, dpmpp-2m, lcm"),
        (["--solver", "lcm", "--max-guidance-scale", "2"], "the solver lcm has no guidance"),
        (["--guide-from", "9"], "guide_from is 9, and guidance ends before step"),
        (["--guidance", "1,2"], "guidance has 2 numbers"),
        (["--schedule", "exact", "--cut-step", "2"], "schedule and cut_step exclude each other"),
        (["--cut-step", "1..2"], "is not one step"),
        (["--start-step", "2"], "No such option"),
        (["--backend", "tpu"], "unknown backend"),
        (["--backend", "onnxruntime-cuda"], "not available here"),
        (["--steps", "many"], "Invalid value"),
        (["--stepz", "4"], "No such option"),
    ],
)
def test_misuse_is_one_line_and_exit_2(small_bundle: Path, photo_file: Path, options: list[str], says: str) -> None:
    if "onnxruntime-cuda" in options:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("CUDA is available here")
    assert says in error(run_here(cli.main, "run", small_bundle, photo_file, *options), 2)


def test_a_named_schedule_is_played(small_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    frames = []
    for number, flags in enumerate((["--schedule", "exact"], ["--cut-step", "none"], ["--schedule", "vcut"])):
        folder = tmp_path / str(number)
        done = vcut("run", small_bundle, photo_file, "-o", folder, "--seed", 2, "-q", *flags)
        assert done.returncode == 0, done.stderr
        frames.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert frames[0] == frames[1] != frames[2]


def test_a_missing_image_is_misuse(small_bundle: Path, tmp_path: Path) -> None:
    assert "no image at" in error(vcut("run", small_bundle, tmp_path / "x.jpg", "-q"), 2)


def test_an_image_that_cannot_be_looked_at_is_misuse(small_bundle: Path) -> None:
    said = error(vcut("run", small_bundle, "x" * 300, "-q"), 2)
    assert said.endswith("(File name too long): check the path and its permissions")


def test_a_url_is_misuse(small_bundle: Path) -> None:
    done = vcut("run", small_bundle, "https://example.com/photo.jpg", "-q")
    assert "the image is a URL (https:/...) and vcut opens no connection: download it" in error(done, 2)


def test_what_is_finished_is_saved_before_the_next_image(small_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = (photo_file, tmp_path / "broken.jpg")
    assert "not an image" in error(vcut("run", small_bundle, *images, "-o", tmp_path / "out.gif", "-q"), 2)
    assert (tmp_path / "out-1.gif").is_file()


def test_a_place_that_cannot_be_written_is_refused_before_the_run(small_bundle: Path, photo_file: Path) -> None:
    assert "is not a folder" in error(vcut("run", small_bundle, photo_file, "-o", photo_file / "out.mp4"), 2)


def test_a_missing_argument_is_misuse() -> None:
    assert "Missing argument" in error(vcut("run"), 2)


def test_a_missing_bundle_is_a_failure(tmp_path: Path, photo_file: Path) -> None:
    assert "vcut export" in error(vcut("run", tmp_path / "none", photo_file), 1)


def test_inspect_shows_graphs_hashes_and_backends(small_bundle: Path) -> None:
    done = vcut("inspect", small_bundle)
    assert done.returncode == 0, done.stderr
    for word in ("semantic_binding", "quality_improvement", "unet.weights", "fp32", "hashes match", "onnxruntime-cpu"):
        assert word in done.stdout


def test_inspect_cuts_nothing_off_at_80_columns(deep_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(deep_bundle, tmp_path / "bundle"))
    add_fake_engines(bundle, weight_bytes=146_780_000, activation_bytes=921_240_000)
    shown = vcut("inspect", bundle).stdout
    described = describe(bundle)
    for engines in described["engines"].values():
        for engine in engines["engines"].values():
            engine |= {"bytes": 146_780_000, "build_seconds": 134.0, "layers": 1234}
    console = Console(width=80, markup=False)
    with console.capture() as large:
        console.print(*render(described))
    for text in (shown, large.get()):
        assert "…" not in text
        assert text.count("quality_improvement_shallow ") == 2  # a graph and an engine, on one line each
        assert max(map(len, text.splitlines())) <= 80


def test_sizes_are_options_of_a_run(dynamic_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    options = ["-q", "--height", 24, "--width", 48, "--num-frames", 2]
    done = vcut("run", dynamic_bundle, photo_file, "-o", tmp_path / "frames", *options)
    assert done.returncode == 0, done.stderr
    frames = sorted((tmp_path / "frames").glob("frame-*.png"))
    assert [Image.open(frame).size for frame in frames] == [(48, 24)] * 2
    wrong = vcut("run", dynamic_bundle, photo_file, "-o", tmp_path / "none", "--height", 23)
    assert error(wrong, 2) == "error: height is 23, this bundle makes 24..48 in steps of 2"
    assert not (tmp_path / "none").exists()


def test_inspect_shows_the_sizes_that_a_run_may_choose(dynamic_bundle: Path) -> None:
    shown = " ".join(vcut("inspect", dynamic_bundle).stdout.split())
    assert "a run may choose frames 2..5, height 24..48 in steps of 2, width 24..48 in steps of 2" in shown
    described = json.loads(vcut("inspect", dynamic_bundle, "--json").stdout)
    assert described["dynamic"]["frames"] == {"min": 2, "max": 5, "multiple": 1}
    assert described["dynamic"]["width"] == {"min": 24, "max": 48, "multiple": 2}
    tensors = {tensor["name"]: tensor["shape"] for tensor in described["graphs"]["condition"]["inputs"]}
    assert tensors["resize_rows"] == [224, "H"]


def test_shallow_steps_are_shown_and_run(deep_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    shown = " ".join(vcut("inspect", deep_bundle).stdout.split())
    assert "has shallow steps, for runs with --cache-interval (32 channels of deep features)" in shown
    done = vcut("run", deep_bundle, photo_file, "-o", tmp_path / "out.gif", "--cache-interval", 2, "--json")
    assert json.loads(done.stdout)["videos"][0]["output"] == str(tmp_path / "out.gif")


def test_a_cache_interval_needs_shallow_steps(small_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    refused = vcut("run", small_bundle, photo_file, "-o", tmp_path / "out.gif", "--cache-interval", 2)
    says = "error: cache_interval is 2, this bundle has no shallow steps: export it with --deep-cache"
    assert error(refused, 2) == says


def test_inspect_as_json_is_the_manifest_with_verdicts(small_bundle: Path) -> None:
    description = json.loads(vcut("inspect", small_bundle, "--json").stdout)
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    assert {name: description[name] for name in manifest} == manifest
    assert description["runs_here"]["onnxruntime-cpu"] == "yes: runs anywhere"
    assert (description["hashes"], description["steps"], description["cut_step"]) == ("match", 4, 3)
    assert description["bytes"] == sum(f.stat().st_size for f in (small_bundle / "onnx").iterdir())


def test_inspect_refuses_a_damaged_bundle(bundle_copy: Path) -> None:
    (bundle_copy / "onnx/decode.weights").unlink()
    assert "is missing" in error(vcut("inspect", bundle_copy), 1)


def test_version_and_help() -> None:
    assert vcut("--version").stdout.startswith("vcut ")
    helped = vcut("--help").stdout
    assert all(command in helped for command in ("run", "inspect", "export"))
