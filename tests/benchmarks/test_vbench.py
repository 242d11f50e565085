"""The paper's metrics: everything around vbench, with a vbench that only looks at what it is given.

The fake does what vbench 0.1.5 does before and after its models run: how it finds videos and images, and what it
writes. The videos are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vcut_bench import vbench
from vcut_bench.numbers import markdown, terminal
from vcut_runtime import UsageError, VcutError

FAKE = """
import json, os
from pathlib import Path

from vbench import VBench

SCORES = {"imaging_quality": 0.66, "dynamic_degree": 0.5}


class VBenchI2V(VBench):
    def __init__(self, device, full_info_dir, output_path):
        self.device, self.info, self.output = device, full_info_dir, output_path

    def evaluate(self, videos_path, name, dimension_list, local, resolution="1-1"):
        with Path(os.environ["FAKE_CALLS"]).open("a") as file:
            file.write(f"{name} {len(dimension_list)} {local} {self.device} {os.getcwd()}\\n")
        scores = {d: [SCORES.get(d, 0.9), self.score(d, videos_path, resolution)] for d in dimension_list}
        Path(self.output, name + "_eval_results.json").write_text(json.dumps(scores))

    def score(self, dimension, videos_path, resolution):
        if os.environ.get("FAKE_FAILS") == dimension:
            raise RuntimeError("no kernel image is available")
        names = os.listdir(videos_path)
        postfix = Path(names[0]).suffix
        results = []
        for prompt in json.loads(Path(self.info).read_text()):
            if dimension not in prompt["dimension"]:
                continue
            image = os.path.join("vbench2_beta_i2v/data/crop/" + resolution, prompt["image_name"])
            assert Path(image).is_file(), image
            for i in range(5):
                video = f"{prompt['prompt_en']}-{i}{postfix}"
                if video in names:
                    path = os.path.join(videos_path, video)
                    assert Path(path).read_bytes()[4:8] == b"ftyp"
                    value = True if dimension == "dynamic_degree" else 66.0
                    results.append({"video_path": path, "video_results": value})
        if os.environ.get("FAKE_FORGETS") == dimension:
            results.pop()
        return results
"""
SUBJECT = ["i2v_subject", "subject_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality"]
BACKGROUND = ["i2v_background", "background_consistency", "aesthetic_quality", "imaging_quality"]
ENTRIES = [
    {"prompt_en": "a man, his [hat] & --x", "image_name": "a man.jpg", "dimension": SUBJECT},
    {"prompt_en": "a café-1", "image_name": "a café.jpg", "dimension": BACKGROUND},
    {"prompt_en": "a café, camera pans left", "image_name": "a café.jpg", "dimension": ["camera_motion"]},
]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vbench that can be imported, and the file of its calls."""
    packages = tmp_path / "site"
    for name in ("vbench", "clip", "dreamsim", "vbench2_beta_i2v"):
        (packages / name).mkdir(parents=True)
        content = {"vbench": "class VBench: ...", "vbench2_beta_i2v": FAKE}.get(name, "")
        (packages / name / "__init__.py").write_text(content)
    cuda = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
    (packages / "torch.py").write_text(cuda)  # of the worker: the real one takes seconds to import
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls.txt"))
    return tmp_path / "calls.txt"


@pytest.fixture
def suite(tmp_path: Path) -> tuple[Path, Path]:
    """Images and the list of prompts."""
    from skimage import data

    images = tmp_path / "crop"
    images.mkdir()
    for name, pixels in (("a man.jpg", data.astronaut()), ("a café.jpg", data.coffee())):
        Image.fromarray(pixels[:64, :64]).save(images / name)
    info = tmp_path / "vbench2_i2v_full_info.json"
    info.write_text(json.dumps(ENTRIES))
    return images, info


@pytest.fixture
def run(small_bundle: Path, small_checkpoint: Path, suite: tuple[Path, Path], tmp_path: Path) -> Any:
    images, info = suite

    def measure(**options: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "reference": str(small_checkpoint),
            "cut_steps": [2],
            "seeds": 2,
            "steps": 2,
            "work": tmp_path / "work",
            "backend": "onnxruntime-cpu",
        }
        return vbench.measure([small_bundle], images, info, **{**defaults, **options})

    return measure


def test_a_table_in_the_shape_of_table_iv(run: Any, calls: Path, tmp_path: Path, monkeypatch: Any) -> None:
    result = run()
    assert result["benchmark"] == "vbench"
    assert result["columns"][0] == "subject_consistency"
    assert len(result["columns"]) == 9
    assert [row["setting"] for row in result["rows"]] == ["base", "c2"]
    for row in result["rows"]:
        assert list(row["values"]) == result["columns"]
        assert row["values"]["imaging_quality"] == pytest.approx(66)
        assert row["values"]["dynamic_degree"] == pytest.approx(50)
        assert row["values"]["latency_s"] > 0
        assert row["paper"] is None  # the small model is none of the paper's
    work = tmp_path / "work"
    assert calls.read_text().splitlines() == [f"{name} 8 True cpu {work}" for name in ("base", "c2")]
    videos = tmp_path / "work/videos"
    assert sorted(path.name for path in (videos / "base").iterdir()) == sorted(
        f"{entry['prompt_en']}-{i}.mp4" for entry in ENTRIES[:2] for i in (0, 1)
    )
    (table,) = vbench.numbers(result)
    assert table.head == ["", "diffusers", "vcut, c=2"]

    # Again: nothing is made and nothing is asked. A lost score alone is asked for, a lost video alone made.
    (work / "scores/c2_eval_results.json").write_text("{")
    lost = videos / "c2" / "a café-1-0.mp4"
    others = {path: path.stat().st_mtime_ns for path in videos.rglob("*.mp4") if path != lost}
    lost.unlink()
    monkeypatch.setattr(vbench, "load_checked", lambda *_: pytest.fail("diffusers ran again"))
    again = run()
    assert again["rows"] == [{**row, "values": {**row["values"], "latency_s": new["values"]["latency_s"]}}
                             for row, new in zip(result["rows"], again["rows"], strict=True)]  # fmt: skip
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["base", "c2", "c2"]
    assert lost.is_file()
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_cut_and_uncut_videos_differ_and_seeds_too(run: Any, calls: Path, tmp_path: Path) -> None:
    import av

    run()
    videos = tmp_path / "work/videos"

    def pixels(path: Path) -> np.ndarray:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    base = pixels(videos / "base" / "a café-1-0.mp4")
    assert base.shape == (3, 32, 32, 3)
    assert not np.array_equal(base, pixels(videos / "c2" / "a café-1-0.mp4"))
    assert not np.array_equal(base, pixels(videos / "base" / "a café-1-1.mp4"))


def test_a_cache_interval_has_rows_and_videos_of_its_own(
    run: Any, calls: Path, tmp_path: Path, deep_bundle: Path, suite: tuple[Path, Path], small_checkpoint: Path
) -> None:
    images, info = suite
    options: dict[str, Any] = {"reference": str(small_checkpoint), "seeds": 1, "steps": 3, "cut_steps": [3]}
    options |= {"work": tmp_path / "work", "backend": "onnxruntime-cpu"}
    first = vbench.measure([deep_bundle], images, info, **options)
    result = vbench.measure([deep_bundle], images, info, cache_interval=2, **options)
    assert [row["setting"] for row in result["rows"]] == ["base", "none-interval-2", "c3-interval-2"]
    assert [name for made in (first, result) for name in vbench.numbers(made)[0].head[1:]] == [
        "diffusers", "vcut, c=3", "diffusers", "vcut, never cut, cache interval 2", "vcut, c=3, cache interval 2"
    ]  # fmt: skip
    videos = tmp_path / "work/videos"
    names = {path.name for path in (videos / "base").iterdir()}
    assert {folder.name for folder in videos.iterdir()} == {"base", "c3", "c3-interval-2", "none-interval-2"}
    assert all({path.name for path in folder.iterdir()} == names for folder in videos.iterdir())
    cut, reused = (videos / name / "a café-1-0.mp4" for name in ("c3", "c3-interval-2"))
    assert cut.read_bytes() != reused.read_bytes()
    with pytest.raises(UsageError, match="export them with --deep-cache"):
        run(cache_interval=2)


def test_a_failing_vbench_is_one_line_with_its_log(run: Any, calls: Path, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("FAKE_FAILS", "motion_smoothness")
    with pytest.raises(VcutError, match=r"videos of base .*no kernel image.*its log is") as caught:
        run(seeds=1)
    assert "\n" not in str(caught.value)
    assert "Traceback" in Path(str(caught.value).rsplit("its log is ", 1)[1]).read_text()
    monkeypatch.delenv("FAKE_FAILS")
    monkeypatch.setenv("FAKE_FORGETS", "imaging_quality")
    with pytest.raises(VcutError, match="did not score all videos"):
        run(seeds=1)
    monkeypatch.delenv("FAKE_FORGETS")
    assert len(run(seeds=1)["rows"]) == 2


def test_without_vbench_it_says_what_to_install(run: Any, calls: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(UsageError, match=r"pip install vbench .*--vbench-python"):
        run()
    with pytest.raises(UsageError, match="cannot run /nowhere/python"):
        run(python="/nowhere/python")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"work": None}, "--work"),
        ({"seeds": 6}, "up to 5"),
        ({"quality_bias": ["median"]}, "unknown --quality-bias"),
        ({"cut_steps": [4]}, "cut step 4 is outside"),
        ({"cache_interval": 0}, "cache_interval is 0: give at least 1"),
    ],
)
def test_impossible_options_are_refused(run: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(prompt_en="../../etc/x"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en="/x"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en=".x"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en=""), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en="x" * 300), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en="x\0y"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en="x\ny"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en="x\\y"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en="\ud800"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(image_name="../a man.jpg"), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.update(prompt_en=ENTRIES[1]["prompt_en"]), "twice"),
        (lambda e: e.update(image_name="gone.jpg"), "lacks 1 of the suite's images, 'gone.jpg'"),
        (lambda e: e.update(prompt_en=3), "is not vbench2_i2v_full_info.json"),
        (lambda e: e.pop("dimension"), "is not vbench2_i2v_full_info.json"),
    ],
)
def test_a_foreign_or_hostile_suite_is_refused(suite: tuple[Path, Path], change: Any, message: str) -> None:
    images, info = suite
    entries = json.loads(info.read_text())
    change(entries[0])
    info.write_text(json.dumps(entries))
    with pytest.raises(UsageError, match=message) as caught:
        vbench.read_suite(info, images, [0])
    assert "\n" not in str(caught.value)


def test_only_prompts_that_are_scored_get_videos(suite: tuple[Path, Path]) -> None:
    images, info = suite
    clips = vbench.read_suite(info, images, [3, 4])
    assert [(clip.prompt.prompt_en, clip.seed) for clip in clips] == [
        (entry["prompt_en"], seed) for entry in ENTRIES[:2] for seed in (3, 4)
    ]
    info.write_text(json.dumps(ENTRIES[2:]))
    with pytest.raises(UsageError, match="none that is scored"):
        vbench.read_suite(info, images, [0])


def test_the_papers_row_stands_beside_ours() -> None:
    from vcut_bench.paper import paper, quality

    row = {
        "setting": "c17",
        "cut_step": 17,
        "cache_interval": 1,
        "values": {"dynamic_degree": 12.345},
        "paper": quality("svd-xt", 17),
    }
    reused = {**row, "cut_step": "none", "setting": "none-interval-3", "cache_interval": 3, "paper": None}
    columns = list(paper().table4_columns)
    result = {"columns": columns, "rows": [row, reused], "prompts": 355, "seeds": 5}
    (table,) = vbench.numbers(result)
    assert table.head == ["", "vcut, c=17", "the paper", "vcut, never cut, cache interval 3"]
    text = markdown(table)
    assert "| dynamic degree | 12.35 | 57.80 | 12.35 |" in text or "| dynamic degree | 12.34 | 57.80 | 12.34 |" in text
    assert "| subject consistency |  | 95.48 |  |" in text
    assert "| background consistency |  | 96.49 |  |" in text
    assert "| motion smoothness |  | 98.04 |  |" in text
    assert table.rows[-1][0] == "seconds"
    rows = [{**row, "cut_step": cut} for cut in ("none", 10, 17, 20)]  # as wide as a whole result
    (table,) = vbench.numbers({**result, "rows": rows})
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal(table))
    assert "background" in capture.get()
    assert capture.get().count("57.80") == 4
    assert "…" not in capture.get()
