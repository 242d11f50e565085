"""Models: what a name given as ``--model`` means. Reads configurations, and no weights."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vcut_export.checkpoint.configs import (
    WEIGHTED,
    check_classes,
    default_sizes,
    preset_configs,
    preset_defaults,
    presets,
    read_configs,
)
from vcut_export.checkpoint.folders import fingerprint
from vcut_export.checkpoint.hub import fetch_configs
from vcut_export.checkpoint.record import Checkpoint
from vcut_export.checkpoint.scheduler import scheduler_constants
from vcut_runtime.errors import UsageError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(model: str, *, revision: str | None = None, random_weights: bool = False, seed: int = 0) -> Checkpoint:
    """Find out what ``model`` is: a preset, a diffusers folder, or a hub id; fetches no weights.

    Raises:
        UsageError: no such model, or not an SVD checkpoint.
        VcutError: the hub is out of reach or denies access.
    """
    checkpoint = _named(model, revision, random_weights, seed)
    check_classes(checkpoint.id, checkpoint.configs)
    scheduler_constants(checkpoint.configs["scheduler"])
    return checkpoint


def _named(model: str, revision: str | None, random_weights: bool, seed: int) -> Checkpoint:
    known = presets()
    folder = Path(model).expanduser()
    own_seed = seed if random_weights else None
    if revision is not None and (folder.is_dir() or (model in known and "hub" not in known[model])):
        raise UsageError(f"--revision is for hub models, {model} is not one: leave it out")
    if model in known:
        return _preset(model, known[model], revision, seed, random_weights)
    if folder.is_dir():
        configs = read_configs(folder)
        sources = {} if random_weights else {component: folder / component for component in WEIGHTED}
        files = [file for source in sources.values() for file in sorted(source.glob("*.safetensors"))]
        contents = None if random_weights else fingerprint(folder, files)
        return Checkpoint(folder.resolve().name, configs, None, contents, own_seed, default_sizes(configs), sources)
    if folder.is_file() or folder.suffix in (".safetensors", ".ckpt", ".pt", ".bin"):
        raise UsageError(f"{model} is a single file: vcut reads diffusers folders, convert it with diffusers first")
    if _HUB_ID.fullmatch(model) and not model.startswith((".", "/", "~")):
        configs, commit = fetch_configs(model, revision)
        return Checkpoint(model, configs, model, commit, own_seed, default_sizes(configs))
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}, a diffusers folder or a hub id"
    raise UsageError(f"unknown model {model!r}: {hint}")


def _preset(name: str, preset: Mapping[str, Any], revision: str | None, seed: int, random_weights: bool) -> Checkpoint:
    defaults = preset_defaults(preset)
    if random_weights:
        return Checkpoint(name, preset_configs(preset), None, None, seed, defaults)
    if "folder" in preset:
        folder = Path(str(resources.files("vcut_export").joinpath(preset["folder"])))
        defaults["measurements"] = preset.get("measurements", {})
        sources = {component: folder / component for component in WEIGHTED}
        return Checkpoint(name, read_configs(folder), None, _contents(sources), None, defaults, sources)
    configs, commit = fetch_configs(preset["hub"], revision)
    return Checkpoint(name, configs, preset["hub"], commit, None, defaults)


def _contents(sources: Mapping[str, Path]) -> str:
    """The sha256 of all weights: of a model that comes with the package, on every machine the same."""
    digest = hashlib.sha256()
    for source in sources.values():
        for file in sorted(source.glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
