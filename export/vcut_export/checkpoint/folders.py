"""Weights files of a diffusers or transformers folder: which variant to read, and all of its shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from vcut_export.checkpoint.configs import read_json
from vcut_runtime.bundle.manifest import Precision
from vcut_runtime.errors import UsageError

SUFFIX = ".safetensors"
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_STEMS = ("diffusion_pytorch_model", "model")  # diffusers' and transformers' names
_SHARD = re.compile(r"-(\d+)-of-(\d+)")
# By precision, the variants that are read first: "" is the plain one. Any other is read if it is the only one.
_PREFERRED: Mapping[Precision, tuple[str, ...]] = {
    "fp32": ("", "fp32", "bf16", "fp16"),
    "fp16": ("fp16", "", "fp32", "bf16"),
    "bf16": ("bf16", "fp16", "", "fp32"),
}


def check_suffix(path: Path) -> None:
    """Refuse a file that is not called ``.safetensors``.

    Raises:
        UsageError: it is a pickle, or another kind of file.
    """
    if path.suffix in PICKLED:
        raise UsageError(
            f"{path} is a pickle, which can run code when it is opened, so vcut does not read it: take the model's "
            ".safetensors file, or convert it with torch.load(weights_only=True) and safetensors.torch.save_file"
        )
    if path.suffix != SUFFIX:
        raise UsageError(f"{path} is not a {SUFFIX} file: vcut reads weights from safetensors alone")


def has_weights(folder: Path) -> bool:
    """Tell whether the folder of a component holds safetensors."""
    return any(folder.glob(f"*{SUFFIX}"))


def source_files(source: Path, precision: Precision) -> list[Path]:
    """Return the files of a component: ``source`` itself, or those of the folder; see :func:`weight_files`."""
    return [source] if source.is_file() else weight_files(source, precision)


def weight_files(folder: Path, precision: Precision) -> list[Path]:
    """Return the files of the variant that suits ``precision``: one file, or every shard.

    Shards are those that the variant's index names, or without an index those that their names count.

    Raises:
        UsageError: there are no safetensors, shards are missing, or it is unclear which files to read.
    """
    variants = _variants(folder)
    if not variants:
        raise UsageError(_without_weights(folder))
    others = sorted(set(variants) - set(_PREFERRED[precision]))
    order = [*_PREFERRED[precision], *others]
    variant = next(name for name in order if name in variants)
    if variant in others and len(others) > 1:
        raise UsageError(f"{folder} holds the variants {', '.join(others)}: leave the one to compile there")
    stems = variants[variant]
    stem = next((name for name in _STEMS if name in stems), min(stems))
    if stem not in _STEMS and len(stems) > 1:
        raise UsageError(f"{folder} holds {', '.join(sorted(stems))}: leave the one to compile there")
    return _indexed(folder, stem, variant) or _complete(folder, stems[stem])


def fingerprint(files: list[Path]) -> str:
    """Hash path, size and modification time of ``files``: reading them whole would take minutes."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _variants(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Return the files of ``folder`` by variant and by stem: ``stem[.variant].safetensors``, shard numbers left out."""
    variants: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        stem, _, variant = _SHARD.sub("", file.name.removesuffix(SUFFIX)).partition(".")
        variants[variant][stem].append(file)
    return variants


def _indexed(folder: Path, stem: str, variant: str) -> list[Path]:
    """Return the shards that the variant's index names, nothing without an index."""
    dotted = f".{variant}" if variant else ""
    index = folder / f"{stem}{SUFFIX}.index{dotted}.json"
    if not index.is_file():
        return []
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(n, str) and Path(n).name == n for n in named.values()):
        raise UsageError(f"{index} has no weight_map of files beside it: restore the file")
    files = [folder / name for name in sorted(set(named.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UsageError(f"{folder} lacks {missing[0]}, which {index.name} names: restore the file")
    return files


def _complete(folder: Path, files: list[Path]) -> list[Path]:
    """Return the whole file if there is one, else all shards."""
    shards = {file: match for file in files if (match := _SHARD.search(file.name))}
    if whole := [file for file in files if file not in shards]:
        return whole
    counts = {int(match[2]) for match in shards.values()}
    if len(counts) > 1:
        raise UsageError(f"{folder} holds shards of several saves ({files[0].name}, {files[-1].name}): leave one save")
    (count,) = counts
    if lacking := sorted(set(range(1, count + 1)) - {int(match[1]) for match in shards.values()}):
        raise UsageError(f"{folder} lacks shard {lacking[0]} of {count}, beside {files[0].name}: restore the file")
    return files


def _without_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is missing: restore the folder, or save the model again"
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        return (
            f"{folder} has no .safetensors file but {pickled[0]}: vcut reads only safetensors, because a pickle can "
            "run code when it is opened; save the model again with safe_serialization=True"
        )
    return f"{folder} has no .safetensors file: restore it, or save the model again with safe_serialization=True"
