"""What vbench needs and says: its files and where they go, its suite of prompts, and its scores of videos."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcut_bench.work import read_json, write_json
from vcut_runtime.errors import UsageError, VcutError

SEEDS = 5  # videos of a prompt; vbench looks for no more
DIMENSIONS = {  # Table IV's columns in vbench's words
    "subject_consistency": "subject_consistency",
    "background_consistency": "background_consistency",
    "motion_smoothness": "motion_smoothness",
    "dynamic_degree": "dynamic_degree",
    "aesthetic_quality": "aesthetic_quality",
    "imaging_quality": "imaging_quality",
    "video_image_subject_consistency": "i2v_subject",
    "video_image_background_consistency": "i2v_background",
}
_MODULES = {"vbench": "vbench", "vbench2_beta_i2v": "vbench", "clip": "openai-clip", "dreamsim": "dreamsim"}
_DINO = ("dino_model/facebookresearch_dino_main/hubconf.py", "the folder is a clone of facebookresearch/dino")
_DINO_WEIGHTS = ("dino_vitbase16_pretrain.pth", "DINO ViT-B/16, of facebookresearch/dino")
# By dimension the files that vbench 0.1.5 reads with local=True, below its cache folder, and where they come from.
_FILES: Mapping[str, Sequence[tuple[str, str]]] = {
    "subject_consistency": [_DINO, (f"dino_model/{_DINO_WEIGHTS[0]}", _DINO_WEIGHTS[1])],
    "i2v_subject": [_DINO, (f"dino_model/{_DINO_WEIGHTS[0]}", _DINO_WEIGHTS[1])],
    "background_consistency": [("clip_model/ViT-B-32.pt", "CLIP ViT-B/32, of openai/CLIP")],
    "motion_smoothness": [("amt_model/amt-s.pth", "AMT-S, of MCG-NKU/AMT")],
    "dynamic_degree": [("raft_model/models/raft-things.pth", "RAFT, of princeton-vl/RAFT")],
    "aesthetic_quality": [
        ("clip_model/ViT-L-14.pt", "CLIP ViT-L/14, of openai/CLIP"),
        ("aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth", "of LAION-AI/aesthetic-predictor"),
    ],
    "imaging_quality": [("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth", "MUSIQ, of chaofengc/IQA-PyTorch")],
    "i2v_background": [
        (f"dreamsim/models/{name}", "the ensemble of ssundaram21/dreamsim")
        for name in (
            *(f"{model}_lora" for model in ("dino_vitb16", "open_clip_vitb16", "clip_vitb16")),
            "dino_vitb16_pretrain.pth",
            "open_clip_vitb16_pretrain.pth.tar",
            "clip_vitb16_pretrain.pth.tar",
        )
    ],
}


@dataclass(frozen=True)
class Prompt:
    """An entry of the suite.

    Attributes:
        text: the prompt; SVD does not read it, but vbench names videos by it.
        image: file name of its image.
        dimensions: those that look at it, in vbench's words.
        nth: how many entries before it have the same image; each has seeds of its own.
    """

    text: str
    image: str
    dimensions: frozenset[str]
    nth: int

    def video(self, index: int) -> str:
        """Return the file name that vbench looks for."""
        return f"{self.text}-{index}.mp4"

    def seed(self, first: int, index: int) -> int:
        """Return the seed of its ``index``-th video."""
        return first + SEEDS * self.nth + index


def missing_files(dimension: str) -> list[str]:
    """Return what a dimension of vbench lacks, each with where it goes; vbench itself would try to download it."""
    cache = _cache()
    lacking = [f"{what}: {cache / name}" for name, what in _FILES[dimension] if not (cache / name).exists()]
    if _DINO in _FILES[dimension]:  # whatever the path that vbench passes on, DINO's own code reads torch's cache
        home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
        path = Path(home).expanduser() / "hub/checkpoints" / _DINO_WEIGHTS[0]
        lacking += [] if path.is_file() else [f"{_DINO_WEIGHTS[1]}: {path}"]
    return lacking


def check_vbench(python: str) -> None:
    """Raise UsageError if the given Python lacks vbench or what it needs."""
    command = [python, str(_worker()), json.dumps(list(_MODULES))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        missing = json.loads(done.stdout) if done.returncode == 0 else list(_MODULES)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot run {python} ({error}): name the Python that has vbench with --vbench-python"
        ) from None
    if missing:
        packages = " ".join(dict.fromkeys(_MODULES[name] for name in missing))
        raise UsageError(
            f"{python} lacks {', '.join(missing)}: pip install {packages} into an environment of its own (vbench wants "
            "transformers 4.33 and numpy 1), and name its Python with --vbench-python"
        )


def read_prompts(info: Path, images: Path, dimensions: set[str] | None) -> list[Prompt]:
    """Return the suite's entries, those that ``dimensions`` look at if given.

    Raises:
        UsageError: the file is not the suite's, its names are no file names, or an image is missing.
    """
    found = read_json(info)
    if not isinstance(found, list) or not all(_is_entry(entry) for entry in found):
        raise UsageError(f"{info} is not vbench2_i2v_full_info.json: it comes with the repository Vchitect/VBench")
    prompts: list[Prompt] = []
    before: dict[str, int] = {}
    for entry in found:
        nth = before.get(entry["image_name"], 0)
        before[entry["image_name"]] = nth + 1
        if dimensions is None or dimensions & set(entry["dimension"]):
            prompts.append(Prompt(entry["prompt_en"], entry["image_name"], frozenset(entry["dimension"]), nth))
    names = [prompt.text for prompt in prompts]
    for name in [*names, *before]:
        plain = name.isprintable() and Path(name).name == name and "\\" not in name and not name.startswith(".")
        if not plain or len(os.fsencode(name)) > 240:
            raise UsageError(f"{info} has {name!r}, which is no file name: take the file from Vchitect/VBench")
    if len(set(names)) < len(names):
        raise UsageError(f"{info} has a prompt twice: take the file from Vchitect/VBench")
    if not prompts:
        raise UsageError(f"{info} has no prompt for {', '.join(sorted(dimensions or ()))}")
    missing = sorted({prompt.image for prompt in prompts if not (images / prompt.image).is_file()})
    if missing:
        raise UsageError(
            f"{images} lacks {len(missing)} of the suite's images, {missing[0]!r} among them: give the folder that "
            "vbench2_beta_i2v/download_data.sh fills, data/crop, as --images"
        )
    return prompts


def score(
    python: str,
    folder: Path,
    name: str,
    dimension: str,
    prompts: Sequence[Prompt],
    seeds: int,
    images: Path,
    ratio: str,
) -> dict[str, Any]:
    """Return the score of a setting's videos in one dimension: kept, or asked of vbench.

    Returns:
        ``percent``, the number of ``videos``, and vbench's own value of each.

    Raises:
        VcutError: vbench failed, or did not score every video.
    """
    own = [prompt for prompt in prompts if dimension in prompt.dimensions]
    expected = sorted(prompt.video(i) for prompt in own for i in range(seeds))
    key = hashlib.sha256(json.dumps(expected).encode()).hexdigest()
    path, log = folder / "scores" / name / f"{dimension}.json", folder / "logs" / f"{name}-{dimension}.log"
    kept = read_json(path)
    if isinstance(kept, dict) and kept.get("of") == key:
        return kept
    log.parent.mkdir(parents=True, exist_ok=True)
    dreamsim = _cache() / "dreamsim"  # it looks for its weights in the working folder
    dreamsim.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".vbench-") as temporary:
        # In vbench's standard mode, where an absolute name of an image stands for one of its own folder.
        entries = [
            {"prompt_en": p.text, "image_name": str((images / p.image).absolute()), "dimension": [dimension]}
            for p in own
        ]
        info = Path(temporary) / "info.json"
        write_json(info, entries)
        # vbench takes the first name in the folder for a video: it gets one that holds nothing else.
        videos_only = Path(temporary) / "videos"
        videos_only.mkdir()
        for video in expected:
            os.link(folder / "videos" / name / video, videos_only / video)
        job = {
            "info": str(info),
            "videos": str(videos_only),
            "dimension": dimension,
            "resolution": ratio,
            "output": temporary,
        }
        with log.open("wb") as file:
            done = subprocess.run(
                [python, str(_worker()), json.dumps(job)],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=dreamsim,
                env={**os.environ, "VBENCH_CACHE_DIR": str(_cache())},
                check=False,
            )
        found = read_json(Path(temporary) / f"{dimension}_eval_results.json")
    try:
        mean, videos = found[dimension]
        values = {Path(video["video_path"]).name: float(video["video_results"]) for video in videos}
        percent = 100 * float(mean)
    except (TypeError, KeyError, ValueError):
        values, percent = {}, float("nan")
    if done.returncode or sorted(values) != expected:
        lines = log.read_text("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        lacking = "" if done.returncode else f", {len(values)} of {len(expected)} videos scored"
        raise VcutError(f"vbench failed in {dimension} of {name} ({lines[-1]}{lacking}): its log is {log}")
    kept = {"percent": percent, "videos": len(values), "of": key, "values": values}
    write_json(path, kept)
    return kept


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dimension"), list):
        return False
    return all(isinstance(text, str) and text for text in (entry.get("prompt_en"), entry.get("image_name"))) and all(
        isinstance(name, str) for name in entry["dimension"]
    )


def _cache() -> Path:
    return Path(os.environ.get("VBENCH_CACHE_DIR") or "~/.cache/vbench").expanduser().absolute()


def _worker() -> Path:
    return Path(__file__).with_name("vbench_worker.py")
