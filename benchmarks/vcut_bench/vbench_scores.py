"""The suite of prompts that ``vbench`` has, the weights that it needs, and its scores of videos."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from vcut_bench.work import keep, read_kept
from vcut_runtime.errors import UsageError, VcutError

SEEDS = 5  # videos of a prompt; vbench looks for no more
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=240)]
_WORKER = Path(__file__).with_name("vbench_worker.py")
_PACKAGES = {"vbench": "vbench", "vbench2_beta_i2v": "vbench", "clip": "openai-clip", "dreamsim": "dreamsim"}
_DINO = {
    "dino_model/facebookresearch_dino_main/hubconf.py": "a clone of facebookresearch/dino",
    "dino_model/dino_vitbase16_pretrain.pth": "facebookresearch/dino",
}
_DREAMSIM = (
    *("dino_vitb16_lora", "open_clip_vitb16_lora", "clip_vitb16_lora"),
    *("dino_vitb16_pretrain.pth", "open_clip_vitb16_pretrain.pth.tar", "clip_vitb16_pretrain.pth.tar"),
)
# The files that vbench 0.1.5 reads below its cache folder, by dimension, and the repositories that they come from.
_WEIGHTS: Mapping[str, Mapping[str, str]] = {
    "subject_consistency": _DINO,
    "background_consistency": {"clip_model/ViT-B-32.pt": "openai/CLIP"},
    "motion_smoothness": {"amt_model/amt-s.pth": "MCG-NKU/AMT"},
    "dynamic_degree": {"raft_model/models/raft-things.pth": "princeton-vl/RAFT"},
    "aesthetic_quality": {
        "clip_model/ViT-L-14.pt": "openai/CLIP",
        "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth": "LAION-AI/aesthetic-predictor",
    },
    "imaging_quality": {"pyiqa_model/musiq_spaq_ckpt-358bb6af.pth": "chaofengc/IQA-PyTorch"},
    "i2v_subject": _DINO,
    "i2v_background": {f"dreamsim/models/{name}": "ssundaram21/dreamsim" for name in _DREAMSIM},
}
_RENAMED = {"i2v_subject": "video_image_subject_consistency", "i2v_background": "video_image_background_consistency"}
DIMENSIONS = {_RENAMED.get(name, name): name for name in _WEIGHTS}  # Table IV's columns in vbench's words


class Prompt(msgspec.Struct, frozen=True):
    """A prompt in the suite's file. SVD does not read it, but vbench names videos by it."""

    prompt_en: FileName
    image_name: FileName
    dimension: frozenset[str]  # what scores it


class Clip(NamedTuple):
    """A video of the suite: its file name, where it comes from, and the seed of its noise."""

    name: str
    prompt: Prompt
    seed: int


def missing_files(dimension: str) -> list[str]:
    """Return the weights that a dimension lacks, each with its source. vbench itself would try to download them."""
    files = {_cache() / name: source for name, source in _WEIGHTS[dimension].items()}
    if _WEIGHTS[dimension] is _DINO:  # DINO's own code reads torch's cache, whatever path vbench passes on
        home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
        *_, (name, source) = _DINO.items()
        files[Path(home).expanduser() / "hub/checkpoints" / Path(name).name] = source
    return [f"{path} (from {source})" for path, source in files.items() if not path.is_file()]


def check_vbench(python: str) -> None:
    """Raise a UsageError if the given Python lacks vbench or what it needs."""
    command = [python, str(_WORKER), json.dumps(list(_PACKAGES))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        missing = json.loads(done.stdout) if done.returncode == 0 else list(_PACKAGES)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot run {python} ({error}): name vbench's Python with --vbench-python") from None
    if missing:
        packages = " ".join(dict.fromkeys(_PACKAGES[name] for name in missing))
        raise UsageError(
            f"{python} lacks {', '.join(missing)}: pip install {packages} into an environment of its own (vbench needs "
            "transformers 4.33 and numpy 1), and name its Python with --vbench-python"
        )


def read_suite(info: Path, images: Path, dimensions: set[str] | None, seeds: int, first_seed: int) -> list[Clip]:
    """Return the videos of the suite; only those that one of ``dimensions`` scores, if given.

    Raises:
        UsageError: the file is not the suite's, its names are not file names, or an image is missing.
    """
    try:
        prompts = msgspec.json.decode(info.read_bytes(), type=list[Prompt])
    except (OSError, ValueError) as error:
        raise UsageError(f"{info} is not vbench2_i2v_full_info.json of Vchitect/VBench ({error})") from None
    if len({prompt.prompt_en for prompt in prompts}) < len(prompts):
        raise UsageError(f"{info} has a prompt twice: take the file from Vchitect/VBench")
    clips, earlier = [], Counter()
    for prompt in prompts:
        first = first_seed + SEEDS * earlier[prompt.image_name]  # prompts with the same image have other seeds
        earlier[prompt.image_name] += 1
        if dimensions is None or dimensions & prompt.dimension:
            clips += [Clip(f"{prompt.prompt_en}-{i}.mp4", prompt, first + i) for i in range(seeds)]
    if not clips:
        raise UsageError(
            f"{info} has no prompt for {', '.join(sorted(dimensions or ()))}: take it from Vchitect/VBench"
        )
    missing = sorted(name for name in {c.prompt.image_name for c in clips} if not (images / name).is_file())
    if missing:
        lacking = f"{len(missing)} of the suite's images, {missing[0]!r} among them"
        raise UsageError(
            f"{images} lacks {lacking}: give data/crop, which download_data.sh of vbench fills, as --images"
        )
    return clips


def score(
    python: str, folder: Path, name: str, dimension: str, clips: Sequence[Clip], images: Path, ratio: str
) -> dict[str, Any]:
    """Return the score of a setting's videos in one dimension, kept or computed: ``percent`` and number of ``videos``.

    Raises:
        VcutError: vbench failed, or did not score every video.
    """
    path, log = folder / "scores" / name / f"{dimension}.json", folder / "logs" / f"{name}-{dimension}.log"
    own = [clip for clip in clips if dimension in clip.prompt.dimension]
    expected = sorted(clip.name for clip in own)
    key = hashlib.sha256(json.dumps(expected).encode()).hexdigest()
    kept = read_kept(path)
    if isinstance(kept, dict) and kept.get("of") == key:
        return kept
    log.parent.mkdir(parents=True, exist_ok=True)
    dreamsim = _cache() / "dreamsim"  # dreamsim looks for its weights in the working folder
    dreamsim.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".vbench-") as temporary:
        # vbench joins the name of an image to a folder of its own; an absolute name stays what it is.
        entries = [
            {"prompt_en": p.prompt_en, "image_name": str(images.absolute() / p.image_name), "dimension": [dimension]}
            for p in dict.fromkeys(clip.prompt for clip in own)
        ]
        keep(Path(temporary) / "info.json", entries)
        # vbench takes the suffix of the first file for that of all videos, so the folder holds nothing else.
        (Path(temporary) / "videos").mkdir()
        for video in expected:
            os.link(folder / "videos" / name / video, Path(temporary) / "videos" / video)
        with log.open("wb") as file:
            done = subprocess.run(
                [python, str(_WORKER), json.dumps({"folder": temporary, "dimension": dimension, "ratio": ratio})],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=dreamsim,
                env={**os.environ, "VBENCH_CACHE_DIR": str(_cache())},
                check=False,
            )
        answer = read_kept(Path(temporary) / f"{dimension}_eval_results.json")
    try:
        mean, videos = answer[dimension]
        names = sorted(Path(video["video_path"]).name for video in videos)
        kept = {"percent": 100 * float(mean), "videos": len(names), "of": key}
    except (TypeError, KeyError, ValueError):
        kept, names = {}, []
    if done.returncode or names != expected:
        lines = log.read_text("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        missing = "" if done.returncode else f", {len(names)} of {len(expected)} videos scored"
        raise VcutError(f"vbench failed in {dimension} of {name} ({lines[-1]}{missing}): its log is {log}")
    keep(path, kept)
    return kept


def _cache() -> Path:
    return Path(os.environ.get("VBENCH_CACHE_DIR") or "~/.cache/vbench").expanduser().absolute()
