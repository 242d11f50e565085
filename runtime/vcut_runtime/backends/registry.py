"""The backends, in order of preference, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

from vcut_runtime.backends.backend import Backend, Offer
from vcut_runtime.bundle import Bundle
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.options import BackendOptions


def _offer(module: str, name: str, bundle: Bundle) -> Offer:
    """Ask the module of a backend, imported only now: it may need a library of hundreds of megabytes."""
    return import_module(f"vcut_runtime.backends.{module}").offer(bundle, name)


# To add a backend: a module with ``offer(bundle, name) -> Offer``, which raises UsageError if it cannot run the bundle.
BACKENDS: Mapping[str, Callable[[Bundle], Offer]] = {
    "tensorrt": partial(_offer, "tensorrt", "tensorrt"),
    "tensorrt-rtx": partial(_offer, "tensorrt", "tensorrt-rtx"),
    "onnxruntime-cuda": partial(_offer, "onnxruntime", "onnxruntime-cuda"),
    "onnxruntime-cpu": partial(_offer, "onnxruntime", "onnxruntime-cpu"),
}
_LAST = "onnxruntime-cpu"
_ONNXRUNTIME = "onnxruntime-"  # and the name of any provider of the installed package


def open_backend(bundle: Bundle, name: str = "auto", options: BackendOptions | None = None) -> Backend:
    """Choose a backend for ``bundle`` and open it; see :func:`choose`."""
    offer = choose(bundle, name)
    backend = offer.open(options or BackendOptions())
    if name == "auto":
        backend.notes.insert(0, f"{offer.name}: {offer.reason}")
    return backend


def check_name(name: str) -> None:
    """Raise a UsageError if there is no backend ``name``; ``auto`` is one."""
    if name != "auto" and name not in BACKENDS and not name.startswith(_ONNXRUNTIME):
        raise UsageError(f"unknown backend {name!r}: choose auto, {', '.join(BACKENDS)}")


def choose(bundle: Bundle, name: str = "auto") -> Offer:
    """Return the offer of the best backend that can run ``bundle`` here, or of the named one.

    Raises:
        UsageError: the name is unknown, or something that the backend needs is missing.
        VcutError: nothing here can run this bundle; the message says why its engines and the CPU cannot.
    """
    check_name(name)
    if name != "auto":
        return BACKENDS.get(name, partial(_offer, "onnxruntime", name))(bundle)
    refusals: dict[str, str] = {}
    for candidate, ask in BACKENDS.items():
        try:
            offer = ask(bundle)
        except VcutError as error:
            refusals[candidate] = str(error)
            continue
        if offer.name == _LAST:
            why = "; ".join(_of_engines(bundle, refusals)) or "the bundle has no engines"
            return Offer(offer.name, f"nothing faster can run here, {why}", offer.open)
        return offer
    raise VcutError("; ".join([*_of_engines(bundle, refusals), refusals[_LAST]]))


def verdicts(bundle: Bundle) -> dict[str, str]:
    """Return for each backend whether it can run ``bundle`` here: ``yes: why`` or ``no: why not``."""
    result = {}
    providers = import_module("vcut_runtime.backends.onnxruntime_providers").other_providers()
    for name in (*BACKENDS, *(_ONNXRUNTIME + word for word in providers)):
        try:
            result[name] = f"yes: {choose(bundle, name).reason}"
        except VcutError as error:
            result[name] = f"no: {error}"
    return result


def _of_engines(bundle: Bundle, refusals: Mapping[str, str]) -> list[str]:
    """Return why the engines that the bundle has cannot run. Users need to know these refusals, not the others."""
    libraries = {engines.library for engines in bundle.manifest.engines.values()}
    return [refusal for name, refusal in refusals.items() if name in libraries]
