"""What tests of engine builds share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from vcut_engines import BuildResult
from vcut_engines import build as build_engines
from vcut_engines.compile import CompiledEngine, EngineJob
from vcut_runtime import VcutError
from vcut_runtime.bundle import sha256

GRAPHS = ("condition", "semantic_binding", "quality_improvement", "decode")
PORTABLE = "tensorrt-rtx-portable"


def build(bundle: Path, engines: str = "tensorrt-rtx", **options: Any) -> BuildResult:
    return build_engines(bundle, engines=engines, **options)


def content(folder: Path) -> dict[str, str]:
    """Every file's hash, hidden ones' too, and every folder."""
    return {str(path.relative_to(folder)): sha256(path) if path.is_file() else "" for path in folder.rglob("*")}


def one_line(bundle: Path, kind: type[VcutError] = VcutError, **options: Any) -> str:
    """The one line that a build fails with; the bundle is as it was."""
    before = content(bundle)
    with pytest.raises(kind) as caught:
        build(bundle, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert content(bundle) == before
    return message


def build_at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let builds take no time: an engine is a text. Returns the graphs built so far."""
    done: list[str] = []

    def compiled(job: EngineJob, **_: Any) -> CompiledEngine:
        done.append(job.graph)
        Path(job.output).write_text(f"{job.graph} for {job.recipe.compute_capability}, attempt {len(done)}")
        return CompiledEngine(activation_bytes=1, weight_bytes=1, layers=1)

    monkeypatch.setattr(sys.modules["vcut_engines.build"], "compile_in_process", compiled)
    return done
