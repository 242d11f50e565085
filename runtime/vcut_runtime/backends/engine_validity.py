"""Tells whether engines can run on this GPU with this library. It reads nothing large."""

from __future__ import annotations

from vcut_runtime.backends.cuda import Cuda
from vcut_runtime.backends.tensorrt_library import Library, load_library
from vcut_runtime.bundle import Bundle
from vcut_runtime.bundle.manifest import EngineSet
from vcut_runtime.errors import UsageError

# The compute capabilities that TensorRT-RTX runs on, from its support matrix. Hopper and data centre Blackwell are not.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_HEADER = 4096  # more than any library's engine_header_size (TensorRT-RTX 1.7: 64)


def target_verdict(bundle: Bundle, target: str) -> str:
    """Return ``yes``, or ``no: why``: whether the engines ``target`` can run on this machine."""
    try:
        library = load_library(bundle.manifest.engines[target].library)
        refusal = why_invalid(bundle, target, library, Cuda())
    except UsageError as error:
        refusal = str(error)
    return "yes" if refusal is None else f"no: {refusal}"


def why_invalid(bundle: Bundle, target: str, library: Library, cuda: Cuda) -> str | None:
    """Return why the engines ``target`` cannot run on ``cuda`` and what to do, None if they can."""
    engines = bundle.manifest.engines[target]
    here = cuda.compute_capability
    if engines.library == "tensorrt-rtx" and here not in RTX_CAPABILITIES:
        return (
            f"TensorRT-RTX does not run on {cuda.name} (compute capability {here}), only on "
            f"{', '.join(RTX_CAPABILITIES)}: run 'vcut build {bundle.root} --engines tensorrt --gpu this'"
        )
    rebuild = f"run 'vcut build {bundle.root} --engines {engines.library} --gpu this'"
    missing = [name for name in bundle.manifest.graphs if name not in engines.engines]
    if missing:
        return f"they lack {missing[0]}, {rebuild}"
    if engines.version != library.version:
        return (
            f"they were built by {engines.version} and {library.version} is installed, which reads only its own: "
            f"{rebuild}, or pip install that version"
        )
    if not _capability_fits(engines, here):
        capability = engines.compute_capability or "8.0 or later"
        return f"they are for compute capability {capability}, {cuda.name} has {here}: {rebuild}"
    reason = _library_says(bundle, engines, library)
    return f"{library.title} finds them invalid here ({reason}): {rebuild}" if reason else None


def _capability_fits(engines: EngineSet, here: str) -> bool:
    """An engine runs on the capability it was built for; a portable one on Ampere and later."""
    if engines.compute_capability is not None:
        return engines.compute_capability == here
    return tuple(map(int, here.split("."))) >= (8, 0)


def describe_target(engines: EngineSet) -> str:
    """Return what GPU a set of engines is for, in words."""
    where = f"compute capability {engines.compute_capability}" if engines.compute_capability else "Ampere and later"
    return f"{where} ({engines.gpu})" if engines.gpu else where


def _library_says(bundle: Bundle, engines: EngineSet, library: Library) -> str | None:
    """Ask the library's ``get_engine_validity``, if it has one, about the header of one engine."""
    trt = library.module
    if not hasattr(trt.Runtime, "get_engine_validity"):
        return None
    messages: list[str] = []
    runtime = trt.Runtime(library.logger(lambda severity, message: messages.append(message)))
    with bundle.path(next(iter(engines.engines.values()))).open("rb") as file:
        header = file.read(_HEADER)
    validity, diagnostics = runtime.get_engine_validity(header)
    if validity != trt.EngineValidity.INVALID:
        return None
    names = [
        member.name.lower().replace("_", " ")
        for member in trt.EngineInvalidityDiagnostics.__members__.values()
        if int(diagnostics) & int(member.value)
    ]
    return ", ".join(names) or " ".join(" ".join(messages).split()) or "no reason given"
