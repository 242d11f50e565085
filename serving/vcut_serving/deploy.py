"""The service on Ray Serve: workers with a pipeline each, and in front of them the API with the queue."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from ray import serve
from ray.serve import Application

from vcut_runtime import BackendOptions, UsageError, open_bundle
from vcut_serving.app import build_app
from vcut_serving.settings import KEY, Settings
from vcut_serving.worker import Worker

APP, WORKERS, FRONT = "vcut", "workers", "api"
_DRAIN = 600.0  # seconds that a worker may take to end its video when the service stops
_PATIENCE = 60.0  # seconds without an answer after which a process is replaced; a video may keep all cores busy


@dataclass(frozen=True)
class Deployment:
    """What runs where.

    Attributes:
        bundle: its folder, which every machine of the cluster sees.
        backend: as in :meth:`vcut_runtime.Pipeline.load`.
        backend_options: of the backend.
        least: workers that always run.
        most: workers that run under load.
        gpus: of each worker, 0 or 1.
    """

    bundle: str
    backend: str = "auto"
    backend_options: BackendOptions = field(default_factory=BackendOptions)
    least: int = 1
    most: int = 1
    gpus: int = 0


def start(deployment: Deployment, settings: Settings, host: str, port: int) -> None:
    """Start the service on a connected Ray, and return once it answers at ``host`` and ``port``."""
    serve.start(http_options={"host": host, "port": port})
    serve.run(application(deployment, settings), name=APP, route_prefix="/")


def build(arguments: dict[str, Any]) -> Application:
    """Return the application of a Ray Serve configuration file, such as a RayService of Kubernetes.

    Args:
        arguments: fields of :class:`Deployment` and of :class:`~vcut_serving.settings.Settings`. The environment
            variable ``VCUT_API_KEY`` is the key.

    Raises:
        UsageError: there is no such field, or ``bundle`` or ``results`` is missing.
    """
    records: list[dict[str, Any]] = []
    left = dict(arguments)
    for record in (Deployment, Settings):
        names = [f.name for f in fields(record) if f.name not in ("api_key", "backend_options")]
        records.append({name: left.pop(name) for name in names if name in left})
    if left:
        raise UsageError(f"unknown argument {next(iter(left))!r}: see vcut_serving.deploy.Deployment")
    for name, record in (("bundle", records[0]), ("results", records[1])):
        if name not in record:
            raise UsageError(f"the argument {name} is missing: give it")
    return application(Deployment(**records[0]), Settings(**records[1], api_key=os.environ.get(KEY) or None))


def application(deployment: Deployment, settings: Settings) -> Application:
    """Return workers and front as an application of Ray Serve."""
    scaling: dict[str, Any] = {"num_replicas": deployment.least}
    if deployment.most > deployment.least:
        scaling = {
            "autoscaling_config": {
                "min_replicas": deployment.least,
                "max_replicas": deployment.most,
                "target_ongoing_requests": 1,
            }
        }
    deployed: Any = serve.deployment(
        Worker,
        name=WORKERS,
        max_ongoing_requests=1,  # a pipeline makes one video at a time
        ray_actor_options={"num_cpus": 1, "num_gpus": deployment.gpus},
        graceful_shutdown_timeout_s=_DRAIN,
        health_check_timeout_s=_PATIENCE,
        **scaling,
    )
    workers = deployed.bind(deployment.bundle, settings.results, deployment.backend, deployment.backend_options)
    front: Any = serve.deployment(
        serve.ingress(_front(deployment.bundle, settings))(),
        name=FRONT,
        num_replicas=1,  # it holds the queue
        max_ongoing_requests=1000,  # clients that wait or watch; the queue has its own bound
        ray_actor_options={"num_cpus": 0},
        health_check_timeout_s=_PATIENCE,
    )
    return front.bind(workers)


def _front(bundle: str, settings: Settings) -> Callable[[], Any]:
    """Return a function that makes the API; Ray Serve calls it in the process that will run it."""

    def make() -> Any:
        workers = serve.get_deployment_handle(WORKERS, serve.get_replica_context().app_name)

        async def run_job(job: str) -> None:
            await workers.run.remote(job)

        return build_app(open_bundle(bundle, hashes=False).manifest, settings, run_job)

    return make
