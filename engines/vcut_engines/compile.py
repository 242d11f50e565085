"""One ONNX graph to one serialized engine, in this process. Peak memory is several times the weights.

The same code drives TensorRT and TensorRT-RTX. Networks are strongly typed: the graph's own types decide precision.
A change of this file rebuilds every engine; what the library says is handled in :mod:`vcut_engines.build_log`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from vcut_engines.build_log import BuildLog, OnPhase, explain, explain_parser, progress_monitor
from vcut_engines.recipe import Recipe
from vcut_runtime.backends.tensorrt_library import load_library
from vcut_runtime.errors import VcutError


class EngineJob(msgspec.Struct, frozen=True):
    """One engine to build.

    Attributes:
        recipe: what it is built with and for.
        graph: the graph's name in the bundle.
        onnx: path of the graph; its weights lie beside it.
        output: path of the engine.
        log: path of the file that takes all the library says.
        timing_cache: path of the timings of earlier builds, None to keep none.
    """

    recipe: Recipe
    graph: str
    onnx: str
    output: str
    log: str
    timing_cache: str | None = None


class CompiledEngine(msgspec.Struct, frozen=True):
    """What the library reports of an engine.

    Attributes:
        activation_bytes: device memory of a run.
        weight_bytes: device memory of the weights.
        layers: their number after the library's fusions.
        warnings: those that a user can act on.
    """

    activation_bytes: int
    weight_bytes: int
    layers: int
    warnings: tuple[str, ...] = ()


def compile_graph(job: EngineJob, on_phase: OnPhase) -> CompiledEngine:
    """Build an engine and write it to ``job.output``.

    Args:
        job: what to build.
        on_phase: called with the library's phase, its steps done, and its steps in all.

    Raises:
        VcutError: the library refused; the message names the node and the fix on one line.
    """
    library = load_library(job.recipe.library)
    log = BuildLog(Path(job.log))
    with log.file:
        trt = library.module
        logger = library.logger(log)
        builder = trt.Builder(logger)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # without this flag always on
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(job.onnx):
            raise VcutError(explain_parser(library.title, parser, job.graph, job.onnx, job.log))
        config = builder.create_builder_config()
        _configure(trt, builder, network, config, job)
        monitor = progress_monitor(trt, on_phase)
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
    warnings = tuple(dict.fromkeys(log.warnings))
    weights = facts.get("Weights") or _weight_bytes(trt, logger, serialized)
    return CompiledEngine(facts.get("Activation", 0), weights, log.layers, warnings)


def _configure(trt: Any, builder: Any, network: Any, config: Any, job: EngineJob) -> None:
    capability = job.recipe.compute_capability
    if job.recipe.library == "tensorrt-rtx":
        if capability is not None:
            config.num_compute_capabilities = 1
            member = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
            if not config.set_compute_capability(member, 0):
                raise VcutError(f"TensorRT-RTX refuses compute capability {capability}: choose another --gpu")
    elif capability is None:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if job.recipe.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # it rounds inputs to 10 bits of mantissa, which is all that fp16 has
        _decompose_attention(trt, network)
    no_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if no_allocation is not None:  # a step that allocates cannot be captured as a CUDA graph
        config.set_flag(no_allocation)
    if job.recipe.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.recipe.workspace)
    if job.recipe.profile:
        profile = builder.create_optimization_profile()
        for name, shapes in job.recipe.profile.items():
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    if job.timing_cache is not None:
        path = Path(job.timing_cache)
        data = path.read_bytes() if path.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(data), False)  # ignores timings of other versions


def _weight_bytes(trt: Any, logger: Any, serialized: Any) -> int:
    """Return the size of an engine's weights that the log does not give.

    The engine tells it where it can be loaded. Elsewhere the size of its file is an upper bound.
    """
    statistic = getattr(getattr(trt, "EngineStat", None), "TOTAL_WEIGHTS_SIZE", None)
    engine = None if statistic is None else trt.Runtime(logger).deserialize_cuda_engine(serialized)
    size = int(serialized.nbytes)
    return size if engine is None else min(size, int(engine.get_engine_stat(statistic)))


def _decompose_attention(trt: Any, network: Any) -> None:
    """Let the library run attention in fp32 as products and a softmax: it has no fused kernel in fp32.

    With free sizes it does not do so unless it is told. In fp16 the fused kernel is needed, because the scores of
    SVD-XT's attention take 40 GB.
    """
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == getattr(trt.LayerType, "ATTENTION_INPUT", None):
            layer.__class__ = trt.IAttentionInputLayer  # the bindings give every layer as ILayer
            layer.attention.decomposable = True


def _keep_timing_cache(config: Any, job: EngineJob) -> None:
    """Keep what was timed, so that the next build need not time it again."""
    if job.timing_cache is None:
        return
    cache = config.get_timing_cache()
    if cache is not None:
        path = Path(job.timing_cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(memoryview(cache.serialize()))
        partial.replace(path)
