"""The hub: fetching configurations and weights, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vcut_export.checkpoint.configs import CONFIG_FILES, WEIGHTED, read_configs
from vcut_export.checkpoint.folders import has_weights
from vcut_export.checkpoint.record import Checkpoint
from vcut_runtime.bundle.manifest import Precision
from vcut_runtime.errors import UsageError, VcutError


def fetch_configs(hub: str, revision: str | None) -> tuple[dict[str, dict[str, Any]], str]:
    """Fetch the configurations of a hub model and return them with the commit.

    Raises:
        UsageError: the hub has no such model or revision, or it is not an SVD model.
        VcutError: the hub is out of reach or denies access.
    """
    with hub_errors(hub):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(hub, revision=revision, allow_patterns=list(CONFIG_FILES.values())))
    return read_configs(folder), folder.name


@contextmanager
def hub_errors(hub: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a line that names the way out."""
    try:
        yield
    except ImportError:
        raise VcutError("downloading needs the export extra: pip install 'vcut[export]'") from None
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            raise VcutError(
                f"{hub} is gated: accept its licence on its page, then log in with 'hf auth login'"
            ) from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise UsageError(f"{hub} has no such revision: check --revision") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            raise UsageError(f"the hub has no model {hub}, or it is private: check the name or log in") from None
        raise VcutError(
            f"cannot reach the hub for {hub} ({type(error).__name__}): check the network, give a local diffusers "
            "folder as --model, or use --random-weights with a preset"
        ) from None


def download(checkpoint: Checkpoint, precision: Precision) -> Checkpoint:
    """Fetch the weights of a hub checkpoint into the hub's cache; any other checkpoint is returned as it is.

    Raises:
        VcutError: the hub is out of reach, or has no safetensors for a component.
    """
    if checkpoint.hub is None or checkpoint.seed is not None:
        return checkpoint
    with hub_errors(checkpoint.hub):
        from huggingface_hub import snapshot_download

        def fetch(components: list[str], variant: str) -> Path:
            if variant == "fp16":
                kinds, ignored = ("*fp16*.safetensors", "*.index.fp16.json"), None
            else:
                kinds, ignored = ("*.safetensors", "*.safetensors.index.json"), ["*fp16*"]
            patterns = [f"{component}/{kind}" for component in components for kind in kinds]
            return Path(
                snapshot_download(
                    checkpoint.hub or "",
                    revision=checkpoint.revision,
                    allow_patterns=[*CONFIG_FILES.values(), *patterns],
                    ignore_patterns=ignored,
                )
            )

        wanted = [component for component in WEIGHTED if component not in checkpoint.sources]
        first, second = ("", "fp16") if precision == "fp32" else ("fp16", "")
        folder = fetch(wanted, first)
        if lacking := [component for component in wanted if not has_weights(folder / component)]:
            folder = fetch(lacking, second)
    if not all(has_weights(folder / component) for component in wanted):
        raise VcutError(
            f"{checkpoint.hub} offers no safetensors, or the hub could not be reached: check the network, or save the "
            "model locally with safe_serialization=True"
        )
    return replace(checkpoint, sources={**{name: folder / name for name in wanted}, **checkpoint.sources})
