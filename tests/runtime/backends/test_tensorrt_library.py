"""The modules of TensorRT and TensorRT-RTX: installed, missing, broken, and logging."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import vcut_runtime.backends.tensorrt_library as module
from vcut_runtime import UsageError
from vcut_runtime.backends.tensorrt_library import MODULES, TITLES, Library, is_installed, load_library
from vcut_runtime.bundle.manifest import EngineLibrary


def refusal(name: EngineLibrary) -> str:
    with pytest.raises(UsageError) as caught:
        load_library(name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a package that does not load, as ``tensorrt``."""

    def install(code: str) -> None:
        name = f"broken_tensorrt_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(module.MODULES, "tensorrt", name)

    return install


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_what_is_not_installed_is_refused_with_the_command_that_installs_it(
    name: EngineLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.MODULES, name, "no_such_module")
    assert not is_installed(name)
    assert refusal(name) == f"{TITLES[name]} is not installed: pip install 'vcut[{name}]'"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "libnvinfer.so.10"),
        ("raise OSError('libcudart.so.13: wrong version\\nmore\\nlines')", "(libcudart.so.13: wrong version)"),
        ("raise RuntimeError()", "RuntimeError"),
        ("def (", "invalid syntax"),
        ("x = 1", "__version__"),
    ],
)
def test_what_does_not_load_is_refused_with_its_reason(broken: Any, code: str, reason: str) -> None:
    broken(code)
    assert is_installed("tensorrt")
    message = refusal("tensorrt")
    assert message.startswith("TensorRT is installed but does not load (")
    assert reason in message
    assert "pip install 'vcut[tensorrt]'" in message


def test_asking_whether_it_is_installed_loads_nothing(broken: Any) -> None:
    broken("raise AssertionError('loaded')")
    assert is_installed("tensorrt")


def test_a_library_names_itself(broken: Any) -> None:
    broken("__version__ = '10.8.0'")
    library = load_library("tensorrt")
    assert (library.name, library.version, library.title) == ("tensorrt", "10.8.0", "TensorRT 10.8.0")


def test_the_real_tensorrt_rtx() -> None:
    assert is_installed("tensorrt-rtx")
    library = load_library("tensorrt-rtx")
    assert library.module is sys.modules[MODULES["tensorrt-rtx"]]
    assert library.title == f"TensorRT-RTX {library.module.__version__}"


def test_the_runtime_alone_loads_no_tensorrt() -> None:
    """TensorRT takes hundreds of megabytes, and bundles without engines do not need it."""
    import subprocess

    code = (
        "import sys, vcut_runtime, vcut_runtime.backends, vcut_runtime.cli, vcut_runtime.backends.tensorrt\n"
        "import vcut_engines, vcut_engines.cli\n"
        "loaded = {'tensorrt', 'tensorrt_rtx', 'cuda.bindings', 'onnx', 'torch'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_logger_hands_on_severity_and_message() -> None:
    library = load_library("tensorrt-rtx")
    said: list[tuple[str, str]] = []
    logger = library.logger(lambda severity, message: said.append((severity, message)))
    severities: Any = library.module.ILogger
    assert isinstance(logger, severities)
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        logger.log(getattr(severities, name), f"about {name}")
    assert said == [(name, f"about {name}") for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")]


def test_the_library_itself_talks_to_the_logger() -> None:
    """Runs in its own process, because the library keeps the first logger of a process until the process ends."""
    import subprocess

    code = (
        "from vcut_runtime.backends.tensorrt_library import load_library\n"
        "said = []\n"
        "library = load_library('tensorrt-rtx')\n"
        "logger = library.logger(lambda *what: said.append(what))\n"
        "builder = library.module.Builder(logger)\n"
        "network = builder.create_network(0)\n"
        "parser = library.module.OnnxParser(network, logger)\n"
        "assert not parser.parse(b'no graph')\n"
        "assert any(severity == 'ERROR' and 'parse' in message.lower() for severity, message in said), said"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_loggers_do_not_mix() -> None:
    library = load_library("tensorrt-rtx")
    first: list[str] = []
    second: list[str] = []
    loggers = [library.logger(lambda _, message, to=to: to.append(message)) for to in (first, second)]
    severity = library.module.ILogger.ERROR
    loggers[0].log(severity, "to the first")
    loggers[1].log(severity, "to the second")
    assert (first, second) == (["to the first"], ["to the second"])
    assert isinstance(library, Library)
