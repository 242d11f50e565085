"""Whether engines can run here, by the manifest, the GPU and the library."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeCuda, add_fake_engines, fake_tensorrt
from vcut_runtime import open_bundle
from vcut_runtime.backends.cuda import Cuda
from vcut_runtime.backends.engine_validity import describe_target, why_invalid
from vcut_runtime.backends.tensorrt_library import Library, load_library
from vcut_runtime.bundle.manifest import EngineLibrary, EngineSet

BITS = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "MALFORMED_ENGINE": 32}


def verdict(
    bundle: Path,
    target: str,
    *,
    library: EngineLibrary = "tensorrt-rtx",
    version: str = "1.2.3",
    capability: str = "8.6",
    says: Any = None,
) -> str | None:
    """Return why the engines cannot run on a fake GPU; ``says`` takes the place of the library's ``Runtime``."""
    gpu = FakeCuda(capability, name="Fake GPU")
    trt = fake_tensorrt(gpu, library)
    if says is not None:
        trt.Runtime = says
        trt.EngineValidity = SimpleNamespace(VALID=0, SUBOPTIMAL=1, INVALID=2)
        members = {name: SimpleNamespace(name=name, value=bit) for name, bit in BITS.items()}
        trt.EngineInvalidityDiagnostics = SimpleNamespace(__members__=members)
    answer = why_invalid(open_bundle(bundle), target, Library(library, trt, version), Cuda(gpu))
    assert answer is None or len(answer.splitlines()) == 1
    return answer


def asked(validity: int, diagnostics: int = 0, message: str = "") -> tuple[Any, list[bytes]]:
    """Return a ``Runtime`` that gives this verdict, and the list of headers that it gets."""
    headers: list[bytes] = []

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def get_engine_validity(self, header: bytes) -> tuple[int, int]:
            headers.append(header)
            if message:
                self.logger.log(SimpleNamespace(name="ERROR"), message)
            return validity, diagnostics

    return Runtime, headers


@pytest.mark.parametrize("library", ["tensorrt-rtx", "tensorrt"])
@pytest.mark.parametrize(("built", "here"), [("8.6", "8.6"), ("12.0", "12.0"), (None, "8.0"), (None, "12.0")])
def test_engines_that_fit(bundle_copy: Path, library: EngineLibrary, built: str | None, here: str) -> None:
    target = add_fake_engines(bundle_copy, library, capability=built)
    assert verdict(bundle_copy, target, library=library, capability=here) is None


@pytest.mark.parametrize(("built", "here"), [("8.6", "8.9"), ("8.0", "8.6"), ("9.0", "12.0"), ("12.0", "12.1")])
def test_an_engine_runs_on_its_own_capability_alone(bundle_copy: Path, built: str, here: str) -> None:
    target = add_fake_engines(bundle_copy, capability=built)
    answer = verdict(bundle_copy, target, capability=here) or ""
    assert f"for compute capability {built}, Fake GPU has {here}" in answer
    assert f"run 'vcut build {bundle_copy} --engines tensorrt-rtx --gpu this'" in answer


def test_a_portable_engine_needs_ampere(bundle_copy: Path) -> None:
    target = add_fake_engines(bundle_copy, capability=None)
    answer = verdict(bundle_copy, target, capability="7.5") or ""
    assert "for compute capability 8.0 or later, Fake GPU has 7.5" in answer
    assert "--gpu this" in answer


@pytest.mark.parametrize("here", ["7.0", "9.0", "10.0"])
def test_where_tensorrt_rtx_does_not_run_the_advice_is_tensorrt(bundle_copy: Path, here: str) -> None:
    """Building with TensorRT-RTX for this GPU would be refused too."""
    target = add_fake_engines(bundle_copy, capability=None)
    answer = verdict(bundle_copy, target, capability=here) or ""
    assert f"TensorRT-RTX does not run on Fake GPU (compute capability {here}), only on 7.5, 8.0, 8.6" in answer
    assert f"run 'vcut build {bundle_copy} --engines tensorrt --gpu this'" in answer


@pytest.mark.parametrize("version", ["1.2.4", "1.2", "1.2.3.0", ""])
def test_another_version_reads_none_of_them(bundle_copy: Path, version: str) -> None:
    target = add_fake_engines(bundle_copy, "tensorrt")
    answer = verdict(bundle_copy, target, library="tensorrt", version=version) or ""
    assert f"built by 1.2.3 and {version} is installed" in answer
    assert "vcut build" in answer
    assert "pip install that version" in answer


def test_the_engine_that_lacks_is_named(bundle_copy: Path) -> None:
    target = add_fake_engines(bundle_copy)
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("decode", "quality_improvement"):
        del manifest["engines"][target]["engines"][name]
    path.write_text(json.dumps(manifest))
    answer = verdict(bundle_copy, target) or ""
    assert answer.startswith("they lack quality_improvement, run 'vcut build")


@pytest.mark.parametrize("validity", [0, 1])
def test_the_library_is_asked_about_a_header_and_its_yes_is_enough(bundle_copy: Path, validity: int) -> None:
    target = add_fake_engines(bundle_copy, padding="x" * 10_000)
    runtime, headers = asked(validity, 1)
    assert verdict(bundle_copy, target, says=runtime) is None
    engine = (bundle_copy / "engines" / target / "condition.engine").read_bytes()
    assert len(headers) == 1
    assert engine.startswith(headers[0])
    assert 64 <= len(headers[0]) < len(engine)  # the gigabytes after the header are not read


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        (1, "(version mismatch)"),
        (2, "(unsupported cc)"),
        (2 | 4, "(unsupported cc, old cuda driver)"),
        (32, "(malformed engine)"),
    ],
)
def test_what_the_library_finds_wrong_is_said_in_words(bundle_copy: Path, bits: int, reason: str) -> None:
    target = add_fake_engines(bundle_copy)
    answer = verdict(bundle_copy, target, says=asked(2, bits)[0]) or ""
    assert answer.startswith(f"TensorRT-RTX 1.2.3 finds them invalid here {reason}: run 'vcut build")


def test_a_refusal_without_a_known_bit_gives_the_librarys_message(bundle_copy: Path) -> None:
    target = add_fake_engines(bundle_copy)
    answer = verdict(bundle_copy, target, says=asked(2, 0, "bad\n magic   number")[0]) or ""
    assert "(bad magic number)" in answer
    assert "(no reason given)" in (verdict(bundle_copy, target, says=asked(2, 64)[0]) or "")


def test_the_manifests_word_comes_before_the_librarys(bundle_copy: Path) -> None:
    target = add_fake_engines(bundle_copy)
    runtime, headers = asked(2, 1)
    assert "Fake GPU has 8.9" in (verdict(bundle_copy, target, capability="8.9", says=runtime) or "")
    assert headers == []


def test_the_real_library_knows_what_is_no_engine(bundle_copy: Path) -> None:
    library = load_library("tensorrt-rtx")
    target = add_fake_engines(bundle_copy, capability=None, version=library.version)
    answer = why_invalid(open_bundle(bundle_copy), target, library, Cuda(FakeCuda()))
    assert answer is not None
    assert f"TensorRT-RTX {library.version} finds them invalid here (" in answer
    assert "malformed engine" in answer or "version mismatch" in answer
    assert len(answer.splitlines()) == 1


@pytest.mark.parametrize(
    ("capability", "gpu", "words"),
    [
        (None, None, "Ampere and later"),
        (None, "NVIDIA A10G", "Ampere and later (NVIDIA A10G)"),
        ("8.6", "a10", "compute capability 8.6 (a10)"),
        ("8.6", None, "compute capability 8.6"),
    ],
)
def test_a_target_in_words(capability: str | None, gpu: str | None, words: str) -> None:
    assert describe_target(EngineSet("tensorrt-rtx", "1.2.3", capability, gpu, {})) == words
