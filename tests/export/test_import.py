"""What importing the export's library loads."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded(module: str) -> set[str]:
    """Return the top-level modules that are loaded after importing ``module``."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["vcut_export", "vcut_export.exporter"])
def test_the_library_needs_neither_engines_nor_torch(module: str) -> None:
    assert not loaded(module) & {"vcut_engines", "torch", "diffusers", "transformers", "onnx"}


def test_making_graphs_needs_no_engines() -> None:
    assert "vcut_engines" not in loaded("vcut_export.graphs.maker")


def test_the_command_chains_both_without_torch() -> None:
    modules = loaded("vcut_export.cli")
    assert "vcut_engines" in modules
    assert "torch" not in modules
