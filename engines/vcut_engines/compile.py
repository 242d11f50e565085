"""One ONNX graph to one serialized engine, in this process. Peak memory is several times the weights.

The same code drives TensorRT and TensorRT-RTX. Networks are strongly typed: the graph's own types decide precision.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vcut_runtime.errors import VcutError
from vcut_runtime.machine import first_line
from vcut_runtime.manifest import EngineLibrary, Profile
from vcut_runtime.tensorrt_library import Library, load_library

OnPhase = Callable[[str, int, int], None]
# What warnings say that no user can act on.
_NOISE = (
    "weights are never used",
    "cuda lazy loading",
    "int64",
    "unable to determine gpu memory usage",
    "timing cache",
    "was built with",
    "subnormal",
    "doesn't support weights",
)


class Recipe(msgspec.Struct, frozen=True):
    """Everything that decides an engine, but the graph."""

    library: EngineLibrary
    version: str
    compute_capability: str | None
    profile: dict[str, Profile]
    tf32: bool  # let fp32 layers round their inputs to 10 bits of mantissa, which is what fp16 has


class Job(msgspec.Struct, frozen=True):
    """One engine to build."""

    recipe: Recipe
    graph: str  # its name in the bundle
    onnx: str  # path of the graph, its weights beside it
    output: str
    log: str
    timing_cache: str | None


class Compiled(msgspec.Struct, frozen=True):
    """What the builder reports of an engine."""

    activation_bytes: int
    weight_bytes: int
    layers: int


@dataclass
class BuildLog:
    """Everything the library says goes to a file; what matters is kept."""

    path: Path

    def __post_init__(self) -> None:
        self.file = self.path.open("w", encoding="utf-8")
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.facts: dict[str, int] = {}
        self.layers = 0

    def __call__(self, severity: str, message: str) -> None:
        """Take one message."""
        self.file.write(f"[{severity}] {message}\n")
        self.file.flush()  # a killed process must leave all of it
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(" ".join(message.split()))
        elif severity == "WARNING" and not any(words in message.lower() for words in _NOISE):
            self.warnings.append(" ".join(message.split()))
        elif found := re.search(r"Total (Activation|Weights) Memory: (\d+)", message):
            self.facts[found[1]] = int(found[2])
        elif message.startswith("Engine Layer Information"):
            self.layers = len(re.findall(r"^Layer\(", message, re.MULTILINE))


def compile_graph(job: Job, on_phase: OnPhase) -> tuple[Compiled, list[str]]:
    """Build an engine and return what the builder reports, and its warnings that a user can act on.

    Args:
        job: what to build and where to.
        on_phase: called with the builder's phase, steps done and steps in all.

    Raises:
        VcutError: the library refused; one line with the node and what helps.
    """
    library = load_library(job.recipe.library)
    log = BuildLog(Path(job.log))
    with log.file:
        trt = library.module
        logger = library.logger(log)
        builder = trt.Builder(logger)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # always on where the flag is gone
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(job.onnx):
            raise VcutError(_parser_error(library, parser, job))
        config = builder.create_builder_config()
        _configure(trt, builder, network, config, job)
        monitor = _monitor(trt, on_phase)
        config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise VcutError(explain(library.title, job.graph, log.errors, job.log))
        try:
            with Path(job.output).open("wb") as file:
                file.write(memoryview(serialized))
            _keep_timing_cache(config, job)
        except OSError as error:
            raise VcutError(f"cannot write the engine {job.graph} ({error.strerror}): free disk space") from None
    facts = log.facts
    compiled = Compiled(facts.get("Activation", 0), facts.get("Weights", 0), log.layers)
    return compiled, list(dict.fromkeys(log.warnings))


def _configure(trt: Any, builder: Any, network: Any, config: Any, job: Job) -> None:
    capability = job.recipe.compute_capability
    if job.recipe.library == "tensorrt-rtx":
        if capability is not None:
            config.num_compute_capabilities = 1
            member = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
            if not config.set_compute_capability(member, 0):
                raise VcutError(f"TensorRT-RTX refuses compute capability {capability}: choose another --gpu")
    elif capability is None:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if not job.recipe.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
        _decompose_attention(trt, network)
    if job.recipe.profile:
        profile = builder.create_optimization_profile()
        for name, shapes in job.recipe.profile.items():
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    if job.timing_cache is not None:
        path = Path(job.timing_cache)
        data = path.read_bytes() if path.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(data), False)  # the library drops one that does not fit


def _decompose_attention(trt: Any, network: Any) -> None:
    """Let attention in fp32, which has no fused kernel, run as products and a softmax; with free sizes it must be said.

    In fp16 it must not be: written out, the scores of SVD-XT take 40 GB.
    """
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == getattr(trt.LayerType, "ATTENTION_INPUT", None):
            layer.__class__ = trt.IAttentionInputLayer  # bindings give every layer as ILayer
            layer.attention.decomposable = True


def _keep_timing_cache(config: Any, job: Job) -> None:
    """What was timed once need not be timed for the next engine."""
    if job.timing_cache is None:
        return
    cache = config.get_timing_cache()
    if cache is not None:
        path = Path(job.timing_cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(memoryview(cache.serialize()))
        partial.replace(path)


def _monitor(trt: Any, on_phase: OnPhase) -> Any:
    """Return an ``IProgressMonitor`` that reports the innermost phase."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.open: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.open[phase_name] = num_steps
            on_phase(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_phase(phase_name, step + 1, self.open.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.open.pop(phase_name, None)
            if self.open:
                name, steps = list(self.open.items())[-1]
                on_phase(name, 0, steps)

    return Monitor()


def _parser_error(library: Library, parser: Any, job: Job) -> str:
    """Name the node that the parser stumbled over."""
    if not parser.num_errors:
        return f"{library.title} cannot read {Path(job.onnx).name}: export the bundle again with --force"
    error = parser.get_error(0)
    attributes = {name: _text(error, name) for name in ("node_name", "node_operator", "desc")}
    node, operator, reason = attributes.values()
    if reason in ("", "false"):
        reason = "the library has no such operator"
    where = f"the node {node} ({operator})" if node else "the graph"
    return (
        f"{library.title} does not support {where} of {job.graph}: {reason}; "
        f"update the library, or report it with the log {job.log}"
    )


def _text(error: Any, name: str) -> str:
    try:
        return " ".join(str(getattr(error, name)()).split())
    except AttributeError:  # an older library
        return ""


def explain(title: str, graph: str, errors: list[str], log: str) -> str:
    """Return one line for a failed build: what the library said, which node, and what helps."""
    reason = _worst(errors)
    text = reason.lower()
    if any(word in text for word in ("memory", "alloc", "outofmemory")):
        advice = "free memory, or export a smaller --height, --width or --frames"
    elif "implementation" in text or "unsupported" in text or "not supported" in text:
        advice = "update the library, or choose another --precision"
    elif "cuda" in text and "driver" in text:
        advice = "update the NVIDIA driver"
    else:
        advice = "update the library, or report it with the log"
    return f"{title} cannot build {graph}: {reason}; {advice}; log: {log}"


def _worst(errors: list[str]) -> str:
    """The message that names a node, else the first one: later ones repeat that the build failed."""
    node = next((error for error in errors if "node" in error.lower()), None)
    return _shorten(node or first_line(errors[0]) if errors else "it gave no reason")


def _shorten(message: str) -> str:
    message = re.sub(r"\[ONNX Layer: [^\]]*\]", "", message)
    return message if len(message) <= 400 else f"{message[:400]} ..."
