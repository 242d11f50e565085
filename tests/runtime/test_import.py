"""The runtime alone: what importing and running it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FORBIDDEN = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx_ir", "accelerate", "safetensors"}


def modules_after(code: str, *arguments: str) -> set[str]:
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_runtime_imports_no_export_library() -> None:
    loaded = modules_after("import vcut_runtime")
    assert "vcut_runtime" in loaded
    assert not loaded & FORBIDDEN
    assert "onnxruntime" not in loaded  # its import takes longer than all others, and inspecting does not need it


def test_a_whole_run_imports_no_export_library(small_bundle: Path, tmp_path: Path) -> None:
    code = (
        "import numpy\nfrom vcut_runtime import Pipeline\n"
        "image = numpy.full((8, 8, 3), 0.5)\n"
        "Pipeline.load(sys.argv[1])(image, num_inference_steps=1).save(sys.argv[2])"
    )
    loaded = modules_after(code, str(small_bundle), str(tmp_path / "out.mp4"))
    assert "onnxruntime" in loaded
    assert not loaded & FORBIDDEN


def test_the_command_line_of_the_runtime_imports_no_torch() -> None:
    code = (
        "sys.argv = ['vcut', 'export', '--help']\nfrom vcut_runtime.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert not modules_after(code) & FORBIDDEN
