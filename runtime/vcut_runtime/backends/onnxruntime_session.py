"""ONNX Runtime's sessions: which file of a graph they load, and with which options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vcut_runtime.backends.cpu_limits import CpuModel
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.backends.onnxruntime_providers import CPU, CUDA, RECORD_PLACEMENT, Provider
from vcut_runtime.bundle import Bundle
from vcut_runtime.bundle.graph import unlike
from vcut_runtime.errors import BundleError, VcutError, first_line, last_line

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of a graph that is not loaded from a file
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


def graph_file(bundle: Bundle, graph: str, provider: Provider, *, plain: bool = False) -> Path:
    """Return the ONNX file that ONNX Runtime loads for ``graph``, see :func:`create_session`."""
    entry = bundle.manifest.graphs[graph]
    return bundle.path(entry if plain or provider.name == CUDA or entry.contrib is None else entry.contrib)


def create_session(
    bundle: Bundle,
    graph: str,
    provider: Provider,
    threads: int | None = None,
    *,
    plain: bool = False,
    model: bytes | None = None,
) -> Any:
    """Return ONNX Runtime's session of ``graph`` on ``provider``.

    Args:
        bundle: its graphs' hashes have been checked.
        graph: its name.
        provider: what runs it; the CPU runs what the provider cannot.
        threads: of the CPU, None for ONNX Runtime's own choice.
        plain: run the standard operators one by one as they are written, without any optimisation.
        model: a changed graph in the place of the file; its weights lie where the file's lie.

    Raises:
        VcutError: ONNX Runtime refuses the graph, or the provider does not start.
        BundleError: the graph does not have the inputs and outputs of the manifest.
    """
    ort = load_onnxruntime(cuda=provider.name == CUDA)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in [*thread_settings(threads).items(), RECORD_PLACEMENT]:
        options.add_session_config_entry(key, value)
    if threads:
        options.intra_op_num_threads = threads
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if provider.name == CPU and CpuModel.of(bundle.manifest).is_large:
        # Each tensor lives from the node that writes it to the last node that reads it, and no longer. Reused buffers
        # live from their first tensor to their last: with them, a step of SVD takes four times as much memory beside
        # the weights. The arena stays: without it, the system hands out and clears every tensor's pages anew, which
        # takes a quarter of a step's time.
        options.enable_mem_pattern = False
        options.enable_mem_reuse = False
    path = graph_file(bundle, graph, provider, plain=plain)
    if model is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
    own = [] if provider.name == CPU else [(provider.name, provider.settings)]
    try:
        session = ort.InferenceSession(model or path, options, providers=[*own, CPU])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = first_line(error) if provider.name in (CPU, CUDA) else last_line(error)
        raise VcutError(f"ONNX Runtime cannot load {path.name}: {reason}") from None
    if provider.name not in session.get_providers():
        raise VcutError(
            f"ONNX Runtime could not start {provider.name}: check the driver, or use --backend onnxruntime-cpu"
        )
    if model is None:
        _check_tensors(bundle, graph, path, session)
    return session


def _check_tensors(bundle: Bundle, graph: str, path: Path, session: Any) -> None:
    """Compare the graph's own inputs and outputs with the manifest's, which the step loop goes by.

    Raises:
        BundleError: they differ.
    """
    entry = bundle.manifest.graphs[graph]
    for actual, listed in ((session.get_inputs(), entry.inputs), (session.get_outputs(), entry.outputs)):
        if name := unlike({t.name: (_TYPES.get(t.type), tuple(t.shape)) for t in actual}, listed):
            raise BundleError(
                f"{bundle.root}: {path.name} does not have the {name!r} that the manifest gives {graph}: "
                "export the bundle again with --force"
            )


def thread_settings(threads: int | None) -> dict[str, str]:
    """Return session settings for ``threads`` CPU threads, None for ONNX Runtime's own choice.

    Each graph's session has its own threads. After a run they spin on their cores and slow the next graph: alternating
    full and shallow steps on two cores took half as long again. So spinning stops with the run. If ``threads`` is the
    number of usable cores, each thread is bound to one core, as ONNX Runtime does by default. Otherwise two threads can
    end up on one core and stay there.
    """
    settings = {"session.force_spinning_stop": "1"}
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if threads == len(usable) > 1:
        settings["session.intra_op_thread_affinities"] = ";".join(str(cpu + 1) for cpu in usable[1:])
    return settings
