"""Which library builds engines for which GPU: decided and checked before any work."""

from __future__ import annotations

from dataclasses import dataclass

from vcut_engines.gpus import compute_capability
from vcut_engines.options import EngineOptions, Engines
from vcut_runtime.backends.cuda import Cuda
from vcut_runtime.backends.tensorrt_library import INSTALL, TITLES, Library, is_installed, load_library
from vcut_runtime.bundle.manifest import EngineLibrary, Precision
from vcut_runtime.errors import UsageError, VcutError


@dataclass(frozen=True)
class Target:
    """What engines are built with and for.

    Attributes:
        library: TensorRT or TensorRT-RTX.
        version: of the library; engines run on no other version.
        compute_capability: such as ``8.6``; None for an engine that runs on Ampere and later.
        gpu: the GPU's name, as given or as the driver says it; None for TensorRT-RTX's portable engines.
        memory: of the GPU in bytes, if kernels are timed on it. TensorRT has been seen to try kernels that need more.
    """

    library: EngineLibrary
    version: str
    compute_capability: str | None
    gpu: str | None
    memory: int | None = None

    @property
    def name(self) -> str:
        """The engines' folder and key in the manifest: ``tensorrt-rtx-sm86``, ``tensorrt-rtx-portable``."""
        kind = "portable" if self.compute_capability is None else f"sm{self.compute_capability.replace('.', '')}"
        return f"{self.library}-{kind}"


def choose_target(engines: Engines = "auto", gpu: str | None = None, precision: Precision = "fp16") -> Target | str:
    """Return the target. Return one line that says why if nothing is to be built or no library is installed.

    Args:
        engines: ``tensorrt-rtx``, ``tensorrt`` or ``none``. ``auto`` is TensorRT if it is installed and the GPU of this
            machine is the one in ``gpu``, else TensorRT-RTX if it is installed, else nothing.
        gpu: a name (``a10``), a compute capability (``8.6``, ``sm86``), ``portable``, or ``this``. By default
            TensorRT builds for the GPU of this machine, and TensorRT-RTX builds portable engines.
        precision: of the bundle. Not every GPU has every precision.

    Raises:
        UsageError: the library is not installed, or it cannot build for that GPU. The message names one that can.
    """
    EngineOptions(engines, gpu)  # checks the words
    if engines == "none":
        return "no engines were asked for"
    if engines == "tensorrt-rtx":
        return _rtx(load_library("tensorrt-rtx"), gpu, precision)
    if engines == "tensorrt":
        return _tensorrt(load_library("tensorrt"), gpu, precision)
    if gpu is not None and gpu.lower() not in ("this", "portable"):
        compute_capability(gpu)  # refuses a misspelt GPU, whatever is installed
    reason = "TensorRT is not installed"
    if is_installed("tensorrt"):
        try:
            return _tensorrt(load_library("tensorrt"), gpu, precision)
        except VcutError as error:
            reason = str(error)
    if is_installed("tensorrt-rtx"):
        return _rtx(load_library("tensorrt-rtx"), gpu, precision)
    if gpu is not None:
        raise UsageError(f"engines for {gpu} need TensorRT-RTX: {INSTALL['tensorrt-rtx']} ({reason})")
    return f"no engines were built, TensorRT-RTX is not installed: {INSTALL['tensorrt-rtx']}, then 'vcut build'"


def rtx_capabilities(library: Library) -> tuple[str, ...]:
    """Return the compute capabilities that this TensorRT-RTX can build for, as its enumeration lists them."""
    names = (n[2:] for n in library.module.ComputeCapability.__members__ if n.startswith("SM"))
    return tuple(f"{n[:-1]}.{n[-1]}" for n in names)


def _rtx(library: Library, gpu: str | None, precision: Precision) -> Target:
    """TensorRT-RTX builds for every GPU that it knows. It needs none in this machine."""
    if gpu is None or gpu.lower() == "portable":
        return Target(library.name, library.version, None, None)
    capability, name = _here_or_named(gpu)
    known = rtx_capabilities(library)
    if capability not in known:
        raise UsageError(
            f"{library.title} cannot build for compute capability {capability} ({name}), only for {', '.join(known)}: "
            f"use --engines tensorrt on a machine with that GPU, or run the bundle with onnxruntime-cuda there"
        )
    _check_precision(library, precision, capability, name)
    return Target(library.name, library.version, capability, name)


def _tensorrt(library: Library, gpu: str | None, precision: Precision) -> Target:
    """TensorRT times kernels on the GPU that it builds for."""
    title = TITLES[library.name]
    try:
        here = Cuda()
    except VcutError as error:
        raise UsageError(
            f"{title} builds for the GPU of this machine, and there is none here ({error}): "
            "use --engines tensorrt-rtx, which needs no GPU"
        ) from None
    if gpu is not None and gpu.lower() == "portable":
        return Target(library.name, library.version, None, here.name, here.memory()[1])
    if gpu is not None and gpu.lower() != "this" and compute_capability(gpu) != here.compute_capability:
        raise UsageError(
            f"{title} builds for the GPU of this machine, {here.name} ({here.compute_capability}), not for {gpu}: "
            "build there, or use --engines tensorrt-rtx"
        )
    _check_precision(library, precision, here.compute_capability, here.name)
    return Target(library.name, library.version, here.compute_capability, here.name, here.memory()[1])


def _here_or_named(gpu: str) -> tuple[str, str]:
    if gpu.lower() != "this":
        return compute_capability(gpu), gpu
    try:
        here = Cuda()
    except VcutError as error:
        raise UsageError(f"--gpu this needs a GPU ({error}): name one, such as a10, or use portable") from None
    return here.compute_capability, here.name


def _check_precision(library: Library, precision: Precision, capability: str, gpu: str) -> None:
    """Check that a GPU has a precision: before Ampere, GPUs lack bf16 and TensorRT-RTX multiplies no fp32 matrices."""
    if precision == "fp16" or tuple(map(int, capability.split("."))) >= (8, 0):
        return
    if precision == "bf16" or library.name == "tensorrt-rtx":
        who = f"{gpu} (compute capability {capability})"
        what = "has no bf16" if precision == "bf16" else "multiplies no fp32 matrices with TensorRT-RTX"
        raise UsageError(f"{who} {what}: export with --precision fp16")
