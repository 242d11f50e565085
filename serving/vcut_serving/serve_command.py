"""``vcut serve``: parse, start, wait."""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vcut_runtime import BackendOptions, UsageError, VcutError, open_bundle
from vcut_runtime.backends import BACKENDS
from vcut_runtime.backends.registry import check_name
from vcut_runtime.command_options import MOST_THREADS, takes_options
from vcut_runtime.host import usable_cpus
from vcut_runtime.terminal import QUIET, say
from vcut_serving.devices import gpus_here, gpus_of_worker
from vcut_serving.given_photo import MOST_MEGAPIXELS
from vcut_serving.settings import KEY, Settings

_MOST_HOURS = 24 * 365


@takes_options
def serve_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    backend_options: BackendOptions,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    results: Annotated[
        str, typer.Option(help="Folder of the jobs and videos, or a URL of fsspec such as s3://bucket/videos.")
    ] = "vcut-videos",
    workers: Annotated[
        int | None, typer.Option(help="Pipelines that run always. [default: one on each GPU, or one]")
    ] = None,
    most_workers: Annotated[int | None, typer.Option(help="Pipelines under load. [default: --workers]")] = None,
    queue: Annotated[int, typer.Option(help="Videos that may wait or be made; more get an answer 429.")] = 32,
    expiry: Annotated[float, typer.Option(help="Hours that a finished video is kept.")] = 24.0,
    most_megabytes: Annotated[int, typer.Option(help="Of a request.")] = 32,
    most_megapixels: Annotated[int, typer.Option(help="Of a photograph.")] = MOST_MEGAPIXELS,
    api_key: Annotated[
        str | None, typer.Option(envvar=KEY, help="Key that requests must carry as Bearer.", show_default=False)
    ] = None,
    backend: Annotated[str, typer.Option(help=f"{', '.join(BACKENDS)}, or auto.")] = "auto",
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster to run on. [default: this machine]")
    ] = None,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Serve a bundle over HTTP: the API of other video servers, a page at / and its description at /docs."""
    for name, value, most in (
        ("port", port, 65535),
        ("workers", workers, MOST_THREADS),
        ("most-workers", most_workers, MOST_THREADS),
        ("queue", queue, 100_000),
        ("most-megabytes", most_megabytes, 4096),
        ("most-megapixels", most_megapixels, 256),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{name} is {value}: give 1 to {most}")
    if not 0 < expiry <= _MOST_HOURS:
        raise UsageError(f"expiry is {expiry}: give hours, up to {_MOST_HOURS}")
    check_name(backend)
    try:
        from ray import serve

        from vcut_serving.deploy import Deployment, start
        from vcut_serving.store import JobStore
    except ImportError as error:
        raise VcutError(f"{error.name} is not installed: pip install -e '.[serve]'") from None
    from vcut_serving.ray_cluster import connected

    url = results if "://" in results else str(Path(results).resolve())
    JobStore(url)  # tells at once if it cannot be there
    if ray is None:
        check_port(host, port)
    manifest = open_bundle(bundle).manifest  # every file is compared with its sha256, once
    settings = Settings(url, queue, most_megabytes << 20, most_megapixels * 1_000_000, expiry * 3600, api_key or None)
    with ExitStack() as stack:
        if ray is None:
            resources: dict[str, float] = {"GPU": gpus_here(), "CPU": usable_cpus()}
        else:
            resources = stack.enter_context(connected(ray)).cluster_resources()
        gpus = gpus_of_worker(manifest, backend, resources.get("GPU", 0))
        unit = "GPU" if gpus else "CPU"
        there = int(resources.get(unit, 0))
        least = workers or (max(1, there) if gpus else 1)
        most = max(most_workers or least, least)
        if most > there:
            raise UsageError(f"{most} workers need a {unit} each, and there are {there}: give fewer")
        if ray is None:
            stack.enter_context(connected(None))
        if not gpus and backend_options.threads is None:
            backend_options = replace(backend_options, threads=max(1, usable_cpus() // most))
        deployment = Deployment(str(bundle.resolve()), backend, backend_options, least, most, gpus)
        try:
            start(deployment, settings, host, port)
            if not quiet:
                say(f"http://{host}:{port} serves {manifest.model.id} with {least} worker(s), process {os.getpid()}")
            while True:
                time.sleep(3600)
        finally:
            serve.shutdown()  # each worker ends its video first


def check_port(host: str, port: int) -> None:
    """Check that a server can listen at a port.

    Raises:
        VcutError: another one does, or the host is none of this machine's.
    """
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise VcutError(f"port {port} is taken: choose another --port") from None
        raise VcutError(f"cannot listen at {host}:{port} ({error.strerror}): choose another --host or --port") from None
