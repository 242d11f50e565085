"""The service on Ray Serve: workers with a pipeline each, and in front of them the API with the queue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from vcut_runtime import BackendOptions, open_bundle
from vcut_serving.app import Settings, build_app
from vcut_serving.worker import Worker

APP, WORKERS, FRONT = "vcut", "workers", "api"
_DRAIN = 600.0  # seconds that a replica may take to end its video when the service stops


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
        host: address to listen at.
        port: likewise.
    """

    bundle: str
    backend: str
    backend_options: BackendOptions
    least: int
    most: int
    gpus: int
    host: str
    port: int


def start(ray: Any, deployment: Deployment, settings: Settings) -> None:
    """Start the service on a connected Ray, and return once it answers."""
    from ray import serve

    serve.start(http_options={"host": deployment.host, "port": deployment.port})
    scaling: dict[str, Any] = {"num_replicas": deployment.least}
    if deployment.most > deployment.least:
        scaling = {
            "autoscaling_config": {
                "min_replicas": deployment.least,
                "max_replicas": deployment.most,
                "target_ongoing_requests": 1,
            }
        }
    workers = serve.deployment(
        Worker,
        name=WORKERS,
        max_ongoing_requests=1,  # a pipeline makes one video at a time
        ray_actor_options={"num_cpus": 1, "num_gpus": deployment.gpus},
        graceful_shutdown_timeout_s=_DRAIN,
        **scaling,
    ).bind(deployment.bundle, settings.results, deployment.backend, deployment.backend_options)
    front = serve.deployment(
        serve.ingress(partial(_front, deployment.bundle, settings))(),
        name=FRONT,
        num_replicas=1,  # it holds the queue
        max_ongoing_requests=1000,  # clients that wait or watch; the queue has its own bound
        ray_actor_options={"num_cpus": 0},
    ).bind(workers)
    serve.run(front, name=APP, route_prefix="/")


def _front(bundle: str, settings: Settings) -> Any:
    from ray import serve

    workers = serve.get_deployment_handle(WORKERS, APP)

    async def run_job(job: str) -> None:
        await workers.run.remote(job)

    return build_app(open_bundle(bundle, hashes=False).manifest, settings, run_job)
