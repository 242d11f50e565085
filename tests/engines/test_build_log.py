"""What the library says: kept in the log, and its errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcut_engines.build_log import BuildLog, explain

SAID = {
    "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)": "free memory",
    "Could not find any implementation for node {ForeignNode[up.0]}": "--precision",
    "Unsupported data type BF16": "--precision",
    "CUDA driver version is insufficient": "update the NVIDIA driver",
    "Internal Error: Assertion x failed": "report it with the log",
}


@pytest.mark.parametrize(("said", "advice"), SAID.items())
def test_a_failure_is_explained_on_one_line(said: str, advice: str) -> None:
    message = explain("TensorRT 10.8", "decode", [said], "/cache/build.log")
    assert message.startswith("TensorRT 10.8 cannot build decode: ")
    assert said in message
    assert advice in message
    assert message.endswith("log: /cache/build.log")


def test_the_message_that_names_a_node_is_the_reason() -> None:
    errors = ["first", "Could not find any implementation for node {up.0}", "build failed"]
    assert "node {up.0}" in explain("TensorRT", "decode", errors, "log")
    assert "first" in explain("TensorRT", "decode", ["first", "second"], "log")
    assert "no reason" in explain("TensorRT", "decode", [], "log")


def test_a_missing_driver_is_not_blamed_for_another_error() -> None:
    """Without a driver, another error about that follows on each."""
    driver = (
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at checkMacros.cpp:250 "
        "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
    )
    message = explain("TensorRT-RTX", "decode", ["Error Code 4: Unsupported type", driver], "log")
    assert "Unsupported type" in message
    assert "update the NVIDIA driver" not in message


def test_a_long_message_is_cut_but_names_the_log() -> None:
    message = explain("TensorRT", "decode", ["x" * 10_000], "/cache/build.log")
    assert len(message) < 600
    assert message.endswith("log: /cache/build.log")


@pytest.mark.parametrize(
    "noise",
    [
        "Some weights are never used",
        "CUDA lazy loading is not enabled. Enabling it can reduce memory",
        "Your ONNX model has been generated with INT64 weights",
        "Unable to determine GPU memory usage: no driver",
        "The timing cache was made by another version",
        "Engine was built with another CUDA",
        "There are 3 subnormal FP16 weights",
        "The tactic doesn't support weights streaming",
    ],
)
def test_warnings_that_nobody_can_act_on_are_only_logged(tmp_path: Path, noise: str) -> None:
    log = BuildLog(tmp_path / "log")
    with log.file:
        log("WARNING", noise)
        log("WARNING", "Half of the values\n  overflow")
    assert log.warnings == ["Half of the values overflow"]
    assert f"[WARNING] {noise}\n" in (tmp_path / "log").read_text()


def test_errors_and_facts_are_kept_apart(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log")
    with log.file:
        log("ERROR", "one\n two")
        log("INTERNAL_ERROR", "three")
        log("INFO", "Total Activation Memory: 1234 bytes")
        log("INFO", "Total Weights Memory: 56 bytes")
        log("VERBOSE", "Engine Layer Information:\nLayer(Myelin): {a}\nLayer(Reformat): b Layer(c)\n")
    assert log.errors == ["one two", "three"]
    assert log.warnings == []
    assert log.facts == {"Activation": 1234, "Weights": 56}
    assert log.layers == 2
