"""The service: the API that video servers share, progress as server-sent events, metrics, and a page."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect

from vcut_runtime import UsageError
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.errors import first_line, printable
from vcut_runtime.image_files import TooManyPixels
from vcut_runtime.images import Photo, fit_notes, open_image
from vcut_runtime.run_plan import choose_sizes, plan_run
from vcut_serving.fields import read_fields, run_options
from vcut_serving.openapi import VIDEO_BODY
from vcut_serving.queue import Full, JobQueue, RunJob
from vcut_serving.settings import Settings
from vcut_serving.store import ENDED, JobStore, NoSuchJob, State, new_id
from vcut_serving.store import Request as VideoRequest
from vcut_serving.upload import TooLarge, read_upload

_LOG = logging.getLogger(__name__)
_LOOK_EVERY = 0.2  # seconds between two looks at a job's state, or whether a client is still there
_SWEEP_EVERY = 60


class Refusal(Exception):
    """An answer with an error."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


def build_app(manifest: Manifest, settings: Settings, run_job: RunJob) -> FastAPI:
    """Return the service as an ASGI application.

    Args:
        manifest: of the bundle that the workers run.
        settings: see :class:`Settings`.
        run_job: runs a job of the store in a worker, and returns when it has ended.
    """
    service = Service(manifest, settings, run_job)
    app = FastAPI(title="vcut", version="1", lifespan=service.lifespan, docs_url=None, redoc_url=None)
    app.exception_handler(Refusal)(service.refuse)
    # A middleware of Starlette's would hide from the handlers that a client went away.
    api = APIRouter(prefix="/v1", dependencies=[Depends(service.check_key)])
    videos: dict[str, Any] = {"tags": ["videos"]}
    api.post("/videos", openapi_extra=VIDEO_BODY, **videos)(service.create)
    api.post("/videos/sync", openapi_extra=VIDEO_BODY, response_class=Response, **videos)(service.create_and_wait)
    api.get("/videos", **videos)(service.list_jobs)
    api.get("/videos/{video_id}", **videos)(service.retrieve)
    api.get("/videos/{video_id}/content", response_class=Response, **videos)(service.content)
    api.get("/videos/{video_id}/events", response_class=StreamingResponse, **videos)(service.events)
    api.delete("/videos/{video_id}", **videos)(service.delete)
    api.get("/models", tags=["service"])(service.models)
    app.include_router(api)
    app.get("/schedules", tags=["service"])(service.schedules)
    app.get("/health", tags=["service"])(service.health)
    app.get("/metrics", response_class=Response, tags=["service"])(service.metrics)
    for path, name, kind in (
        ("/", "index.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
        ("/docs", "docs.html", "text/html"),
        ("/docs.js", "docs.js", "text/javascript"),
    ):
        app.get(path, include_in_schema=False)(_page(name, kind))
    return app


class Service:
    """The handlers of a service, see :func:`build_app`."""

    def __init__(self, manifest: Manifest, settings: Settings, run_job: RunJob) -> None:
        self.manifest, self.settings = manifest, settings
        self.store = JobStore(settings.results)
        self.queue = JobQueue(self.store, run_job, settings.queue)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Take up what an earlier process has left, and sweep what has expired."""
        await self.queue.recover()
        sweeper = asyncio.create_task(self._sweep())
        yield
        sweeper.cancel()

    async def check_key(self, request: Request) -> None:
        """Refuse requests of the API without the key."""
        if (key := self.settings.api_key) is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = given or request.headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise Refusal(401, "the API key is missing or wrong: send it as Bearer")

    async def refuse(self, request: Request, refusal: Refusal) -> JSONResponse:
        """Answer with an error, on one line, in the form that clients know."""
        self.queue.refused.labels(str(refusal.status)).inc()
        kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
        error = {"message": printable(str(refusal)), "type": kind, "code": refusal.status}
        return JSONResponse({"error": error}, refusal.status, headers=refusal.headers)

    async def create(self, request: Request) -> dict[str, Any]:
        """Ask for a video. It is made in the background."""
        return self._shown(await self._accept(request), State())

    async def create_and_wait(self, request: Request) -> Response:
        """Ask for a video and wait for it. A client that goes away cancels it."""
        accepted = await self._accept(request)
        waiting = asyncio.create_task(self.queue.wait(accepted.id))
        try:
            while not (await asyncio.wait([waiting], timeout=_LOOK_EVERY))[0]:
                if await request.is_disconnected():
                    self.queue.remove_soon(accepted.id)
                    return Response(status_code=499)
            state = await self._state(accepted.id)
            if state.status != "completed":
                raise Refusal(500, state.error or f"the video is {state.status}")
            return await self._video(accepted.id, accepted.seed)
        except asyncio.CancelledError:  # so Ray Serve tells that the client went away
            self.queue.remove_soon(accepted.id)
            raise
        finally:
            waiting.cancel()

    async def list_jobs(self) -> dict[str, Any]:
        """List the jobs, newest first."""
        shown = []
        for job in await asyncio.to_thread(lambda: list(self.store.jobs())):
            try:
                shown.append(await self._job(job))
            except Refusal:  # deleted meanwhile
                continue
        shown.sort(key=lambda job: job["created_at"], reverse=True)
        return {"object": "list", "data": shown[:100], "has_more": len(shown) > 100}

    async def retrieve(self, video_id: str) -> dict[str, Any]:
        """Return how far a video is."""
        return await self._job(video_id)

    async def content(self, video_id: str) -> Response:
        """Return the video's file."""
        state = await self._state(video_id)
        if state.status != "completed":
            raise Refusal(409, f"the video is {state.status}: ask for its content once it is completed")
        return await self._video(video_id, (await self._request(video_id)).seed)

    async def events(self, video_id: str) -> StreamingResponse:
        """Send an event whenever a video has got further, and a last one when it has ended."""
        request = await self._request(video_id)
        return StreamingResponse(self._events(request), media_type="text/event-stream")

    async def delete(self, video_id: str) -> dict[str, Any]:
        """Cancel a video if it is not ready, and delete it."""
        await self._request(video_id)
        await self.queue.remove(video_id)
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    async def models(self) -> dict[str, Any]:
        """List the model."""
        return {"object": "list", "data": [{"id": self.manifest.model.id, "object": "model", "owned_by": "vcut"}]}

    async def schedules(self) -> dict[str, list[str]]:
        """List the bundle's schedules, the default first."""
        return {"schedules": list(self.manifest.schedules)}

    async def health(self) -> dict[str, str]:
        """Tell that the service answers."""
        return {"status": "ok"}

    async def metrics(self) -> Response:
        """Return the metrics in Prometheus' form."""
        return Response(generate_latest(self.queue.metrics), media_type=CONTENT_TYPE_LATEST)

    async def _accept(self, request: Request) -> VideoRequest:
        """Check a request, keep it as a job, and start that."""
        try:
            self.queue.reserve()
        except Full:
            raise Refusal(429, "the queue is full: try again later", {"Retry-After": "5"}) from None
        try:
            upload = await read_upload(request, self.settings.most_bytes)
            options, notes = read_fields(upload.fields, self.manifest.model.id)
            seed = options.pop("seed", None)
            seed = secrets.randbelow(2**31) if seed is None else run_options({"seed": seed}).seed
            photo = await asyncio.to_thread(open_image, upload.image, self.settings.most_pixels)
            notes += self._check_plan(options, photo)
            accepted = VideoRequest(new_id(), time.time(), seed or 0, options, notes=notes)
            await self._start(accepted, upload.image)
        except TooManyPixels as error:
            raise Refusal(413, str(error)) from None
        except UsageError as error:
            raise Refusal(400, str(error)) from None
        except TooLarge:
            raise Refusal(413, f"the body has more than {self.settings.most_bytes / 1e6:.0f} MB: send less") from None
        except ClientDisconnect:
            raise Refusal(400, "the client went away") from None
        finally:
            self.queue.give_back()
        return accepted

    async def _start(self, accepted: VideoRequest, image: bytes) -> None:
        """Keep a job and start it. If the client goes away meanwhile, nobody knows the job, so it is removed."""

        async def keep_and_start() -> None:
            await asyncio.to_thread(self.store.create, accepted, image)
            self.queue.start(accepted.id)

        starting = asyncio.create_task(keep_and_start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(lambda _: self.queue.remove_soon(accepted.id))
            raise

    def _check_plan(self, options: dict[str, Any], photo: Photo) -> tuple[str, ...]:
        """Check that the bundle can play the options, and return notes about the photograph."""
        run = run_options(options)
        plan_run(self.manifest, run, None, photo.image.size)
        sizes = choose_sizes(self.manifest, run, photo.image.size)
        return fit_notes(photo, sizes.height, sizes.width, run.fit)

    async def _read(self, read: Callable[[str], Any], job: str) -> Any:
        """Read something of a job in the store."""
        try:
            return await asyncio.to_thread(read, job)
        except NoSuchJob:
            raise Refusal(404, "there is no such video: it was deleted or has expired") from None

    async def _request(self, job: str) -> VideoRequest:
        return await self._read(self.store.request, job)

    async def _state(self, job: str) -> State:
        return await self._read(self.store.state, job)

    async def _job(self, job: str) -> dict[str, Any]:
        return self._shown(await self._request(job), await self._state(job))

    async def _video(self, job: str, seed: int) -> Response:
        video = await self._read(self.store.video, job)
        headers = {"X-Video-Id": job, "X-Seed": str(seed)}
        return Response(video, media_type="video/mp4", headers=headers)

    def _shown(self, request: VideoRequest, state: State) -> dict[str, Any]:
        error = None if state.error is None else {"code": state.status, "message": state.error}
        expires = None if state.finished is None else int(state.finished + self.settings.expiry)
        return {
            "id": request.id,
            "object": "video",
            "model": self.manifest.model.id,
            "status": state.status,
            "progress": state.progress,
            "created_at": int(request.created),
            "completed_at": None if state.finished is None else int(state.finished),
            "expires_at": expires,
            "error": error,
            "seed": request.seed,
            "notes": list(request.notes),
            "waited_seconds": None if state.started is None else round(max(state.started - request.created, 0), 3),
            "seconds_by_stage": state.seconds,
        }

    async def _events(self, request: VideoRequest) -> AsyncIterator[bytes]:
        told: State | None = None
        while True:
            try:
                state = await self._state(request.id)
            except Refusal:  # deleted while somebody watches
                state = State("cancelled", error="the video was deleted")
            if state != told:
                told = state
                event = state.status if state.status in ENDED else "progress"
                yield b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(self._shown(request, state)))
                if state.status in ENDED:
                    return
            await asyncio.sleep(_LOOK_EVERY)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.queue.sweep(self.settings.expiry)
            except Exception as error:  # of any file system: it may answer again later
                reason = first_line(error)
                _LOG.warning("expired videos were not deleted (%s): trying again in %g s", reason, _SWEEP_EVERY)
            await asyncio.sleep(_SWEEP_EVERY)


def _page(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = (files("vcut_serving") / "page" / name).read_text("utf-8")

    async def page() -> Response:
        return HTMLResponse(content, media_type=kind)

    return page
