"""ONNX Runtime is imported in one place, and sends and writes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vcut_runtime.backends import onnxruntime_library
from vcut_runtime.backends.onnxruntime_providers import cuda_settings

ROOT = Path(__file__).parents[3]
RUN = """
import os, sys
import numpy as np
from pathlib import Path
from vcut_runtime import Pipeline
Pipeline.load(sys.argv[1], "onnxruntime-cpu")(np.zeros((32, 32, 3), np.uint8), seed=0)
print(os.environ["ORT_DISABLE_TELEMETRY"])
print(sum(path.is_socket() for path in Path("/proc/self/fd").iterdir()))
"""


def test_no_other_module_imports_it() -> None:
    sources = [path for room in ("runtime", "export", "engines", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    importing = [path.stem for path in sources if re.search(r"^\s*(import|from) onnxruntime\b", path.read_text(), re.M)]
    assert importing == ["onnxruntime_library"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_run_opens_no_socket_and_writes_nothing_into_the_home_folder(small_bundle: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    command = [sys.executable, "-c", RUN, str(small_bundle)]
    done = subprocess.run(command, env={**kept, **home}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0"]
    assert list(tmp_path.rglob("*")) == []


def test_the_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    onnxruntime_library.load_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_libraries_of_cuda_are_loaded_for_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    calls: list[Any] = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append(1), raising=False)
    onnxruntime_library.load_onnxruntime()
    assert calls == []
    onnxruntime_library.load_onnxruntime(cuda=True)
    assert calls == [1]


def test_fp32_is_not_rounded_to_tf32_on_cuda() -> None:
    assert cuda_settings("fp32")["use_tf32"] == "0"
    assert cuda_settings("fp16")["use_tf32"] == "1"
    assert cuda_settings("fp16")["arena_extend_strategy"] == "kSameAsRequested"
