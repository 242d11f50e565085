"""The unmodified UNet as an ONNX graph or a TensorRT engine in the place of diffusers' own: the fair peer.

NVIDIA's demo and optimum build the same. The graph goes through this project's exporter and clean-up. So the remaining
differences to a bundle are folding, the schedule, and the step's arithmetic inside the graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vcut_bench.reference import Reference
from vcut_runtime.backends.onnxruntime_session import thread_settings
from vcut_runtime.bundle.manifest import EngineLibrary, TensorSpec
from vcut_runtime.errors import UsageError, VcutError, first_line

Run = Callable[[Mapping[str, Any], Any], None]  # inputs by name and output, torch tensors on the device


def replace_unet(pipeline: Any, reference: Reference, library: str, backend: str, threads: int) -> str:
    """Export the UNet of diffusers' pipeline, free its weights, and call the graph from then on; return its backend.

    ``library`` is ``onnxruntime`` or ``tensorrt``. The bundle's ``backend`` says which TensorRT.

    Raises:
        VcutError: the library cannot run it here.
    """
    import torch

    engine = _tensorrt_library(backend, reference) if library == "tensorrt" else None
    unet = pipeline.unet
    channels, height, width = reference.manifest.geometry.latent_shape()
    with tempfile.TemporaryDirectory(prefix="vcut-unfolded-") as name:
        path = export_unet(unet, reference, Path(name))
        unet.to("meta")
        if engine is None:
            run, title = _onnxruntime(path, reference.device, threads)
        else:
            run, title = _tensorrt(path, engine, reference)
    output = torch.empty(2, reference.manifest.frames, channels, height, width, device=reference.device)

    def forward(sample: Any, timestep: Any, encoder_hidden_states: Any, added_time_ids: Any, **_: Any) -> Any:
        inputs = {
            "sample": sample,
            "timestep": timestep.reshape(1),
            "encoder_hidden_states": encoder_hidden_states,
            "added_time_ids": added_time_ids,
        }
        run({name: value.to(reference.device, torch.float32).contiguous() for name, value in inputs.items()}, output)
        return (output.to(sample.dtype),)

    unet.forward = forward
    return title


def export_unet(unet: Any, reference: Reference, folder: Path) -> Path:
    """Write ``unet`` unmodified as an ONNX graph with float32 inputs and output, and return its path."""
    import torch

    from vcut_export.graphs.onnx_files import write_graph, write_weights
    from vcut_export.graphs.tracing import GraphSpec, trace

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, sample: Any, timestep: Any, encoder_hidden_states: Any, added_time_ids: Any) -> Any:
            tensors = (value.to(unet.dtype) for value in (encoder_hidden_states, added_time_ids))
            return self.unet(sample.to(unet.dtype), timestep, *tensors, return_dict=False)[0].float()

    channels, height, width = reference.manifest.geometry.latent_shape()
    frames, cross = reference.manifest.frames, unet.config.cross_attention_dim
    inputs = (
        TensorSpec("sample", "float32", (2, frames, 2 * channels, height, width)),
        TensorSpec("timestep", "float32", (1,)),
        TensorSpec("encoder_hidden_states", "float32", (2, 1, cross if isinstance(cross, int) else cross[0])),
        TensorSpec("added_time_ids", "float32", (2, 3)),
    )
    outputs = (TensorSpec("velocity", "float32", (2, frames, channels, height, width)),)
    model = trace(Plain().eval(), GraphSpec("unet", inputs, outputs, for_cpu=reference.precision == "fp32"))
    _, placed = write_weights([model], folder / "unet.weights")
    about = {"vcut_version": "benchmark", "description": "diffusers' UNet, unmodified"}
    write_graph(model, folder / "unet.onnx", placed, about)
    return folder / "unet.onnx"


def _onnxruntime(path: Path, device: str, threads: int) -> tuple[Run, str]:
    import numpy as np

    from vcut_runtime.backends.onnxruntime_library import load_onnxruntime

    ort = load_onnxruntime()

    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise UsageError("ONNX Runtime has no CUDA: pip uninstall onnxruntime, then pip install onnxruntime-gpu")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    for key, value in thread_settings(threads).items():  # those of vcut's own sessions
        options.add_session_config_entry(key, value)
    try:
        providers = list(dict.fromkeys([provider, "CPUExecutionProvider"]))
        session = ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise VcutError(f"ONNX Runtime cannot load the unfolded UNet: {first_line(error)}") from None

    def run(inputs: Mapping[str, Any], output: Any) -> None:
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_input(name, device, 0, np.float32, tuple(value.shape), value.data_ptr())
        binding.bind_output("velocity", device, 0, np.float32, tuple(output.shape), output.data_ptr())
        session.run_with_iobinding(binding)

    return run, f"onnxruntime {device}"


def _tensorrt_library(backend: str, reference: Reference) -> EngineLibrary:
    """Return the bundle's own TensorRT, or the one that is installed."""
    from vcut_runtime.backends.tensorrt_library import is_installed

    if reference.device != "cuda":
        raise UsageError("torch sees no NVIDIA GPU: an engine could be built, but not run")
    libraries: tuple[EngineLibrary, ...] = ("tensorrt", "tensorrt-rtx")
    for name in libraries:
        if name == backend or (backend not in libraries and is_installed(name)):
            return name
    raise UsageError("no TensorRT is installed: pip install 'vcut[tensorrt]' or 'vcut[tensorrt-rtx]'")


def _tensorrt(path: Path, library: EngineLibrary, reference: Reference) -> tuple[Run, str]:
    """Build an engine for this GPU and run it on torch's own memory and stream, as NVIDIA's demo does."""
    import torch

    from vcut_engines import choose_target
    from vcut_engines.compile import EngineJob, compile_graph
    from vcut_engines.recipe import Recipe
    from vcut_runtime.backends.tensorrt_library import load_library

    target = choose_target(library, "this", reference.manifest.precision)
    assert not isinstance(target, str), target
    recipe = Recipe(library, target.version, target.compute_capability, reference.manifest.precision)
    plan, log = path.with_suffix(".engine"), path.with_suffix(".log")
    compile_graph(EngineJob(recipe, "unet", str(path), str(plan), str(log)), lambda *_: None)
    loaded, errors = load_library(library), ["no reason given"]
    logger = loaded.logger(lambda severity, text: errors.append(text) if "ERROR" in severity else None)
    runtime = loaded.module.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        raise VcutError(f"{loaded.title} cannot load the unfolded UNet: {first_line(errors[-1])}")

    def run(inputs: Mapping[str, Any], output: Any) -> None:
        for name, value in {**inputs, "velocity": output}.items():
            context.set_tensor_address(name, value.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise VcutError(f"{loaded.title} failed in the unfolded UNet: {first_line(errors[-1])}")

    run.keep = (runtime, engine, logger)  # pyright: ignore[reportFunctionMemberAccess]  # the context needs them
    return run, loaded.title
