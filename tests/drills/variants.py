"""Variants of a bundle: each is a damaged or hostile copy that depends on its number alone."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from drills.graph_changes import GRAPH_CHANGES, change_bytes, change_weights
from drills.json_changes import CHANGES
from vcut_runtime.bundle import sha256

MANIFEST = "manifest.json"
Kind = Callable[[Path, random.Random], str]


def make_variant(bundle: Path, folder: Path, number: int) -> str:
    """Write variant ``number`` of ``bundle`` to ``folder``; return its name, which says what was changed."""
    draw = random.Random(number)
    shutil.copytree(bundle, folder, copy_function=os.link)  # files are replaced, never written to
    return f"{number:04d}-{draw.choice(_KINDS)(folder, draw)}"


def _replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text("utf-8"))


def _write_manifest(folder: Path, manifest: Any) -> None:
    _replace(folder / MANIFEST, json.dumps(manifest).encode())


def _seal(folder: Path) -> None:
    """Make the manifest agree with the files, as the author of a hostile bundle can."""
    manifest = _manifest(folder)
    graphs = manifest["graphs"].values()
    for entry in [*graphs, *(g["contrib"] for g in graphs if g["contrib"]), *manifest["weights"].values()]:
        path = folder / entry["file"]
        entry.update(bytes=path.stat().st_size, sha256=sha256(path))
    _write_manifest(folder, manifest)


def _change_manifest(folder: Path, draw: random.Random) -> str:
    manifest = _manifest(folder)
    changes = draw.choices(CHANGES, k=draw.choice([1, 1, 1, 2]))
    for change in changes:
        change(manifest, draw)
    _write_manifest(folder, manifest)
    return "manifest-" + "-".join(change.__name__ for change in changes)


def _damage_manifest(folder: Path, draw: random.Random) -> str:
    path = folder / MANIFEST
    _replace(path, change_bytes(path.read_bytes(), draw))
    return "manifest-bytes"


def _graph_file(folder: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(folder.glob("onnx/*.onnx")))


def _change_graph(folder: Path, draw: random.Random) -> str:
    path, change = _graph_file(folder, draw), draw.choice(GRAPH_CHANGES)
    model = onnx.load(path, load_external_data=False)
    change(model, draw)
    _replace(path, model.SerializeToString())
    _seal(folder)
    return f"graph-{path.stem}-{change.__name__}"


def _damage_graph(folder: Path, draw: random.Random) -> str:
    path = _graph_file(folder, draw)
    _replace(path, change_bytes(path.read_bytes(), draw))
    _seal(folder)
    return f"graph-{path.stem}-bytes"


def _swap_graphs(folder: Path, draw: random.Random) -> str:
    first, second = _graph_file(folder, draw), _graph_file(folder, draw)
    _replace(first, second.read_bytes())
    _seal(folder)
    return f"graph-{first.stem}-is-{second.stem}"


def _change_weights(folder: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(folder.glob("onnx/*.weights")))
    _replace(path, change_weights(path.read_bytes(), draw))
    _seal(folder)
    return f"weights-{path.stem}"


def _change_files(folder: Path, draw: random.Random) -> str:
    """Put something else in the place of a file."""
    path = draw.choice([folder / MANIFEST, *sorted(folder.glob("onnx/*"))])
    how = draw.choice(["gone", "folder", "link", "link-to-nothing", "link-to-itself", "pipe", "empty"])
    data = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "link":
        (folder / "elsewhere").write_bytes(data)
        path.symlink_to(folder / "elsewhere")
    elif how == "link-to-nothing":
        path.symlink_to("nothing")
    elif how == "link-to-itself":
        path.symlink_to(path)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "empty":
        path.touch()
    return f"file-{path.name}-{how}"


_KINDS: tuple[Kind, ...] = (
    *(_change_manifest,) * 8,
    _damage_manifest,
    *(_change_graph,) * 8,
    _damage_graph,
    _swap_graphs,
    *(_change_weights,) * 3,
    _change_files,
)
