"""The visit to a GPU machine, without one: its plan, and how it goes on when steps fail."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_visit.py"


@pytest.fixture(scope="module")
def gpu_visit() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_visit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_visit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_dry_run_prints_the_plan_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/some-1.0-py3-none-any.whl.00").touch()
    output = tmp_path / "result.json"
    command = [sys.executable, "-S", SCRIPT, "--wheels", "wheels", "--json", output, "--dry-run"]  # no site packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout)
    names = [step["name"] for step in plan["steps"]]
    assert names[0] == "install"
    order = ["tensorrt-rtx build svd-tiny", "gpu tests", "latency svd-tiny", "latency svd-xt"]
    assert [name for name in names if name in order] == order
    assert plan["wheels"] == ["some-1.0-py3-none-any.whl.00"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wheels"]


def test_wheels_are_needed(tmp_path: Path, gpu_visit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_visit.main(["--wheels", str(tmp_path / "none"), "--json", "x.json"]) == 2
    assert "pip wheel" in capsys.readouterr().err


def test_every_command_of_the_plan_exists(gpu_visit: Any, tmp_path: Path) -> None:
    """Modules can be found, functions exist, and the programs know the options."""
    for step in gpu_visit.plan(tmp_path, tmp_path, tmp_path, full=True):
        python, how, what, *options = step.command
        assert python == sys.executable
        if how == "-c":
            function = what.split(" import ")[1].split(";")[0]
            assert callable(getattr(gpu_visit, function)), step.name
        else:
            assert importlib.util.find_spec(what), step.name
            words = 2 if options[0] == "bench" else 1
            subcommand = options[:words] if what == "vcut_runtime" else []
            done = subprocess.run([python, "-m", what, *subcommand, "--help"], capture_output=True, text=True)
            known = done.stdout
            assert all(o in known for o in options if o.startswith("--")), (step.name, known)
    assert (gpu_visit.ROOT / "tests/gpu/test_engines.py").is_file()


def test_a_visit_goes_on_after_failures_and_writes_each_result(
    gpu_visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(name: str, code: str, minutes: float = 1, needs: str | None = None) -> Any:
        return gpu_visit.Step(name, "?", [sys.executable, "-c", code], minutes, needs)

    steps = [
        step("good", "print('words'); print('{\"a\": 1}')"),
        step("bad", "import sys; sys.exit('it is broken')"),
        step("pointless", "raise AssertionError", needs="bad"),
        step("slow", "import time; time.sleep(60)", minutes=0.01),
        step("last", "import json; print(json.dumps({'b': [1, {'c': 2}]}, indent=2))", needs="good"),
    ]
    monkeypatch.setattr(gpu_visit, "plan", lambda *_, **__: steps)
    output = tmp_path / "results/gpu.json"
    arguments = ["--wheels", str(tmp_path), "--json", str(output), "--work", str(tmp_path / "work")]
    assert gpu_visit.main(arguments) == 1
    record = json.loads(output.read_text())
    steps = record["steps"]
    assert {name: entry["status"] for name, entry in steps.items()} == {
        "good": "passed",
        "bad": "failed",
        "pointless": "skipped",
        "slow": "failed",
        "last": "passed",
    }
    assert steps["good"]["result"] == {"a": 1}
    assert steps["bad"]["reason"] == "it is broken"
    assert steps["pointless"]["reason"] == "bad did not pass"
    assert "not done after" in steps["slow"]["reason"]
    assert steps["last"]["result"] == {"b": [1, {"c": 2}]}
    assert record["date"]
    assert list(output.parent.iterdir()) == [output]


def test_nothing_starts_when_time_is_up(gpu_visit: Any, tmp_path: Path) -> None:
    record: dict[str, Any] = {}
    step = gpu_visit.Step("late", "?", ["false"], 1)
    gpu_visit.visit([step], tmp_path / "x.json", record, time.monotonic() + 5, tmp_path)
    assert record["steps"]["late"]["reason"] == "no time left"


def test_wheels_in_parts_are_joined_and_what_is_there_is_left_alone(
    gpu_visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new-1.0-py3-none-any.whl.01").write_bytes(b"world")
    (tmp_path / "new-1.0-py3-none-any.whl.00").write_bytes(b"hello ")
    (tmp_path / "numpy-9.9-cp312-cp312-linux_x86_64.whl").touch()
    (tmp_path / "vcut-0.1.0-py3-none-any.whl").touch()
    calls: list[list[str]] = []
    monkeypatch.setattr(gpu_visit.subprocess, "run", lambda command, **_: calls.append(command))
    gpu_visit.install(str(tmp_path), str(tmp_path / "site"))
    assert (tmp_path / "new-1.0-py3-none-any.whl").read_bytes() == b"hello world"
    wheels = [Path(word).name for word in calls[0] if word.endswith(".whl")]
    assert wheels == ["new-1.0-py3-none-any.whl", "vcut-0.1.0-py3-none-any.whl"]
    assert "--no-index" in calls[0]
    assert json.loads(capsys.readouterr().out) == {"installed": wheels}
