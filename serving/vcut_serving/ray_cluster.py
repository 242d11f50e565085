"""Connecting to Ray: a cluster by its address, or a Ray of this machine alone that ends with the command."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vcut_runtime import VcutError
from vcut_runtime.errors import first_line

_ADVICE = "pip install -e '.[ray]'"
# Set for a Ray that vcut starts. A variable that the user has set keeps its value.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no statistics are sent
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine may need more than the default of 5 to start one
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


def load_ray() -> Any:
    """Import Ray.

    Raises:
        VcutError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise VcutError(f"Ray is not installed: {_ADVICE}") from None
    return ray


@contextmanager
def connected(address: str | None, *, verbose: bool = False) -> Iterator[Any]:
    """Yield Ray, connected to ``address`` or to a Ray of its own on this machine.

    Raises:
        VcutError: no cluster answers there.
    """
    ray, on_terminate = load_ray(), signal.getsignal(signal.SIGTERM)
    level = logging.INFO if verbose else logging.ERROR
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            logging_level=level,
            log_to_driver=verbose,
        )
    except Exception as error:  # Ray's own kinds, and those of gRPC
        where = f"no Ray cluster at {address}" if address else "Ray does not start"
        raise VcutError(f"{where} ({first_line(error)}): check the address, or 'ray status' there") from None
    signal.signal(signal.SIGTERM, on_terminate)  # Ray has put its own there, which ends without cleaning up
    try:
        yield ray
    finally:
        ray.shutdown()
