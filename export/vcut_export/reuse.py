"""What an export keeps of the bundle that is already there, and what it refuses to replace."""

from __future__ import annotations

from pathlib import Path

from vcut_export.plan import Plan
from vcut_runtime.bundle import open_bundle
from vcut_runtime.bundle.claims import INSIDE
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import MANIFEST, GraphEntry, Manifest
from vcut_runtime.bundle.transaction import is_fixed
from vcut_runtime.errors import BundleError, UsageError


def place(output: str | Path | None, plan: Plan) -> Path:
    """Return where the bundle really goes: ``output``, a link followed; by default ``vcut-<model>``.

    Raises:
        UsageError: no folder can be put in place there at the end.
    """
    root = Path(f"vcut-{_short(plan.checkpoint.id)}") if output is None else Path(output)
    if is_fixed(root):
        raise UsageError(f"{root} is the current folder or a mount point: name a folder inside it as --output")
    return root.resolve() if root.is_symlink() else root


def existing(root: Path, plan: Plan, force: bool) -> Manifest | None:
    """Return the manifest of the bundle at ``root``, None if there is nothing to keep.

    Raises:
        UsageError: ``root`` holds something that is not a bundle, or another model's bundle.
    """
    if not root.exists():
        return None
    if not root.is_dir():
        raise UsageError(f"{root} is a file: choose another --output")
    if not any(root.iterdir()):
        return None
    own = (MANIFEST, "onnx", "engines")
    # Another process may be building engines in a hidden folder.
    foreign = sorted(p.name for p in root.iterdir() if p.name not in own and not p.name.startswith(INSIDE))
    if foreign or not _is_ours(root / MANIFEST):
        what = foreign[0] if foreign else "something else than a vcut bundle"
        raise UsageError(f"{root} holds {what}, which vcut did not put there: choose another --output")
    try:
        manifest = open_bundle(root, hashes=False).manifest
    except BundleError as error:
        if force:
            return None
        raise UsageError(f"{str(error).removesuffix(' with --force')}; --force replaces this one") from None
    there, new = manifest.model, plan.checkpoint
    if (there.id, there.random_weights) != (new.id, new.seed is not None) and not force:
        kind = " with random weights" if there.random_weights else ""
        raise UsageError(
            f"{root} holds a bundle of {there.id}{kind}: choose another --output, or replace it with --force"
        )
    return manifest


def kept_graphs(old: Manifest | None, plan: Plan) -> dict[str, GraphEntry]:
    """Return the graphs of the old bundle that were made from the same things.

    Graphs that share a weights file are kept together or made together.
    """
    if old is None:
        return {}
    kept = {name: graph for name, graph in old.graphs.items() if graph.key == plan.keys.get(name)}
    stale = {GRAPHS[name].weights for name in plan.keys if name not in kept}
    return {name: graph for name, graph in kept.items() if GRAPHS[name].weights not in stale}


def manifest_now(root: Path) -> Manifest | None:
    """Return the manifest of the bundle at ``root``, if there is a bundle."""
    try:
        return open_bundle(root, hashes=False, engines=False).manifest
    except BundleError:
        return None


def _short(model: str) -> str:
    """Return a model's id without its owner on the hub and without a file's suffix."""
    return model.rsplit("/")[-1].removesuffix(".safetensors")


def _is_ours(manifest: Path) -> bool:
    """Tell a manifest of ours, even a damaged one, from another program's file of that name."""
    try:
        return b'"vcut_version"' in manifest.read_bytes()
    except OSError:
        return False
