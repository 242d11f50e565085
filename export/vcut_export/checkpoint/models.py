"""Models: what a name given as ``--model`` means. Reads configurations, and no weights."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcut_export.checkpoint.configs import (
    WEIGHTED,
    architecture,
    check_classes,
    default_sizes,
    preset_configs,
    preset_defaults,
    preset_folder,
    presets,
    read_configs,
)
from vcut_export.checkpoint.folders import PICKLED, SUFFIX, fingerprint
from vcut_export.checkpoint.hub import fetch_configs
from vcut_export.checkpoint.record import Checkpoint
from vcut_export.checkpoint.scheduler import scheduler_constants
from vcut_export.checkpoint.single_file import single_file
from vcut_export.checkpoint.unet import replace_unet
from vcut_runtime.errors import UsageError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(
    model: str,
    *,
    revision: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    preset: str | None = None,
    unet: str | None = None,
) -> Checkpoint:
    """Find out what ``model`` is: a preset, a diffusers folder, a single file, or a hub id; fetches no weights.

    Args:
        model: as the user names it.
        revision: of a hub model.
        random_weights: take the architecture alone.
        seed: of random weights.
        preset: whose architecture a single file has; None finds out.
        unet: a file or folder whose UNet takes the place of the model's own.

    Raises:
        UsageError: no such model, or not an SVD checkpoint.
        VcutError: the hub is out of reach or denies access.
    """
    known = presets()
    if preset is not None and preset not in known:
        raise UsageError(f"--preset {preset!r} is none of {', '.join(known)}: choose one")
    path = Path(model).expanduser()
    if model not in known and not path.is_dir() and (path.is_file() or path.suffix in (SUFFIX, *PICKLED)):
        if revision is not None:
            raise UsageError(f"--revision is for hub models, {model} is not one: leave it out")
        checkpoint = single_file(path, preset, seed if random_weights else None)
    elif preset is not None:
        raise UsageError(f"--preset is for single files, {model} is not one: leave it out")
    else:
        checkpoint = _named(model, revision, random_weights, seed)
    if unet is not None:
        checkpoint = replace_unet(checkpoint, Path(unet).expanduser())
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
        contents = None if random_weights else fingerprint(files)
        return Checkpoint(folder.resolve().name, configs, None, contents, own_seed, default_sizes(configs), sources)
    if _HUB_ID.fullmatch(model) and not model.startswith((".", "/", "~")):
        configs, commit = fetch_configs(model, revision)
        return Checkpoint(model, configs, model, commit, own_seed, default_sizes(configs))
    close = difflib.get_close_matches(model, known, n=1)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else f"choose {', '.join(known)}, a diffusers folder, a .safetensors file or a hub id"
    )
    raise UsageError(f"unknown model {model!r}: {hint}")


def _preset(name: str, preset: Mapping[str, Any], revision: str | None, seed: int, random_weights: bool) -> Checkpoint:
    defaults = preset_defaults(preset)
    if random_weights:
        return Checkpoint(name, architecture(preset), None, None, seed, defaults)
    if folder := preset_folder(preset):
        defaults["measurements"] = preset.get("measurements", {})
        sources = {component: folder / component for component in WEIGHTED}
        return Checkpoint(name, preset_configs(preset), None, _contents(sources), None, defaults, sources)
    configs, commit = fetch_configs(preset["hub"], revision)
    return Checkpoint(name, configs, preset["hub"], commit, None, defaults)


def _contents(sources: Mapping[str, Path]) -> str:
    """The sha256 of all weights: of a model that comes with the package, on every machine the same."""
    digest = hashlib.sha256()
    for source in sources.values():
        for file in sorted(source.glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
