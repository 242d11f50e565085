"""A pipeline in a service: closed, cancelled, interrupted, shared, and given numbers that overflow."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from example_manifest import example
from fakes import Machine, Recorder
from vcut_runtime import Bundle, Cancelled, Pipeline, UsageError, VcutError

PLAYERS = ["onnxruntime-cpu", "tensorrt-rtx low", "tensorrt"]
SHORT: dict[str, Any] = {"num_inference_steps": 2, "cut_step": 2}  # a step of each stage
LATENTS = (1, 3, 4, 16, 16)  # of the small bundle
INTERRUPTS = 5  # places in a video


class Player:
    """Loads the small bundle on one backend, real or on the fake GPU."""

    def __init__(self, bundle: Path, name: str) -> None:
        self.bundle, (self.library, *low) = bundle, name.split()
        self.machine = None if self.library == "onnxruntime-cpu" else Machine(bundle, self.library)
        self.options = {"low_memory": True} if low else {}

    def load(self) -> Pipeline:
        return self.machine.pipeline(**self.options) if self.machine else Pipeline.load(self.bundle, self.library)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=PLAYERS)
def player(request: Any, bundle_copy: Path) -> Player:
    return Player(bundle_copy, request.param)


@pytest.fixture(scope="module")
def want(small_bundle: Path, photo: Image.Image) -> np.ndarray:
    return Pipeline.load(small_bundle, "onnxruntime-cpu")(photo, seed=5, **SHORT).frames


def poison(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, at: int, spoil: Callable[[Any], object]) -> None:
    """Let run number ``at`` of the backend, counted from 1, do something else with its outputs."""
    runs, run = iter(range(1, 1000)), pipeline.backend.run

    def changed(graph: str, inputs: Any) -> Any:
        outputs = run(graph, inputs)
        if next(runs) == at:
            spoil(outputs)
        return outputs

    monkeypatch.setattr(pipeline.backend, "run", changed)


def fail(outputs: Any) -> None:
    raise VcutError("out of memory: close other programs")


def test_after_every_kind_of_end_the_next_video_is_a_fresh_one(
    player: Player, photo: Image.Image, want: np.ndarray
) -> None:
    pipeline = player.load()

    def end_with(error: BaseException) -> Callable[..., None]:
        def callback(number: int, *_: Any) -> None:
            if number == 2:
                raise error

        return callback

    for error in (KeyboardInterrupt(), ValueError("mine")):
        with pytest.raises(type(error)):
            pipeline(photo, seed=8, callback=end_with(error), **SHORT)
        assert np.array_equal(pipeline(photo, seed=5, **SHORT).frames, want)
    for at in (1, 3, 4):  # condition, a step, decode
        with pytest.MonkeyPatch.context() as patch:
            poison(pipeline, patch, at, fail)
            with pytest.raises(VcutError, match="out of memory"):
                pipeline(photo, seed=8, **SHORT)
        assert np.array_equal(pipeline(photo, seed=5, **SHORT).frames, want)


def test_a_call_is_cancelled_between_any_two_graphs(player: Player, photo: Image.Image, want: np.ndarray) -> None:
    pipeline = player.load()
    for graphs in range(4):  # that ran before
        cancel, ran = threading.Event(), []
        if not graphs:
            cancel.set()
        with pytest.MonkeyPatch.context() as patch:
            run = pipeline.backend.run

            def counted(graph: str, inputs: Any, run: Any = run, ran: Any = ran, cancel: Any = cancel) -> Any:
                ran.append(graph)
                if len(ran) == graphs:  # noqa: B023  # it is called in this turn alone
                    thread = threading.Thread(target=cancel.set)
                    thread.start()
                    thread.join()
                return run(graph, inputs)

            patch.setattr(pipeline.backend, "run", counted)
            with pytest.raises(Cancelled, match="the video was cancelled by its caller"):
                pipeline(photo, seed=8, cancel=cancel, **SHORT)
        assert len(ran) == graphs
    assert np.array_equal(pipeline(photo, seed=5, cancel=threading.Event(), **SHORT).frames, want)


def test_a_call_that_waits_is_cancelled_while_the_other_goes_on(
    small_bundle: Path, photo: Image.Image, want: np.ndarray
) -> None:
    pipeline = Pipeline.load(small_bundle, "onnxruntime-cpu")
    began, go_on, cancel = threading.Event(), threading.Event(), threading.Event()
    made: list[np.ndarray] = []

    def hold(number: int, *_: Any) -> None:
        began.set()
        assert go_on.wait(60)

    worker = threading.Thread(target=lambda: made.append(pipeline(photo, seed=5, callback=hold, **SHORT).frames))
    worker.start()
    assert began.wait(60)
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Cancelled):
        pipeline(photo, seed=6, cancel=cancel)
    assert not made
    go_on.set()
    worker.join(60)
    assert np.array_equal(made[0], want)
    assert np.array_equal(pipeline(photo, seed=5, **SHORT).frames, want)


def test_something_else_than_an_event_does_not_cancel(small_bundle: Path, photo: Image.Image) -> None:
    with pytest.raises(UsageError, match=r"cancel is of type bool: give a threading\.Event"):
        Pipeline.load(small_bundle, "onnxruntime-cpu")(photo, cancel=True)  # pyright: ignore


def test_a_closed_pipeline_gives_back_its_memory_and_refuses_work(
    player: Player, photo: Image.Image, want: np.ndarray
) -> None:
    pipeline, machine = player.load(), player.machine
    assert np.array_equal(pipeline(photo, seed=5, **SHORT).frames, want)
    assert machine is None or machine.gpu.used > 1 << 20
    pipeline.close()
    gc.collect()  # fake engines refer to themselves
    assert machine is None or machine.gpu.used == 0
    pipeline.close()  # once more is no fault
    says = r"the pipeline is closed: load the bundle again with Pipeline\.load"
    with pytest.raises(UsageError, match=says):
        pipeline(photo)
    with pytest.raises(UsageError, match=says):
        pipeline.estimate_seconds()
    del pipeline
    gc.collect()
    assert machine is None or machine.gpu.streams == 0


def test_the_end_of_a_with_closes_the_pipeline(small_bundle: Path, photo: Image.Image) -> None:
    with Pipeline.load(small_bundle, "onnxruntime-cpu") as pipeline:
        assert pipeline.estimate_seconds() == 0
    with pytest.raises(UsageError, match="closed"):
        pipeline(photo)
    with pytest.raises(ZeroDivisionError), pipeline:
        _ = 1 / 0


def test_close_waits_for_the_video_in_the_making(small_bundle: Path, photo: Image.Image, want: np.ndarray) -> None:
    pipeline = Pipeline.load(small_bundle, "onnxruntime-cpu")
    closers: list[threading.Thread] = []

    def close(number: int, *_: Any) -> None:
        if number == 1:
            closers.append(threading.Thread(target=pipeline.close))
            closers[0].start()

    assert np.array_equal(pipeline(photo, seed=5, callback=close, **SHORT).frames, want)
    closers[0].join(60)
    with pytest.raises(UsageError, match="closed"):
        pipeline(photo)


def test_a_callback_cannot_close_its_own_pipeline(small_bundle: Path, photo: Image.Image, want: np.ndarray) -> None:
    pipeline = Pipeline.load(small_bundle, "onnxruntime-cpu")
    with pytest.raises(UsageError, match="do it afterwards"):
        pipeline(photo, callback=lambda *_: pipeline.close())
    assert np.array_equal(pipeline(photo, seed=5, **SHORT).frames, want)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures the resident memory of Linux")
def test_closing_gives_the_hosts_memory_back(small_bundle: Path) -> None:
    code = (
        "import resource, sys\nimport numpy as np\nfrom vcut_runtime import Pipeline\n"
        "def resident():\n    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "for _ in range(3):\n"
        "    pipeline = Pipeline.load(sys.argv[1], 'onnxruntime-cpu')\n"
        "    pipeline(np.full((32, 32, 3), 0.5), seed=0)\n"
        "    before = resident()\n    pipeline.close()\n    print(before, resident())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small_bundle)], capture_output=True, text=True, check=True)
    (_, first), (_, second), (before, third) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert before - third > 20e6  # 8 MB of weights, and what runs took
    assert abs(third - first) < 0.1 * (before - third)
    assert abs(second - first) < 0.1 * (before - third)


class Interrupter:
    """Raises KeyboardInterrupt before the ``at``-th line of vcut's own code, as Ctrl-C does at any moment.

    The line of a ``with`` is left out. A tracer sees it again before a lock's exit, where CPython handles no signal.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.places: list[tuple[str, int]] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "vcut_runtime" not in frame.f_code.co_filename or in_finalizer(frame):
            return None  # what is raised in a finalizer is lost
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.places) == self.at:
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> Interrupter:
        sys.settrace(self)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)


def in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@pytest.fixture
def _plain_trace() -> Iterator[None]:
    before = sys.gettrace()
    yield
    sys.settrace(before)


@pytest.mark.usefixtures("_plain_trace")
def test_ctrl_c_at_any_line_leaves_a_pipeline_that_makes_the_same_video(
    player: Player, photo: Image.Image, want: np.ndarray
) -> None:
    small = photo.resize((32, 32))
    with player.load() as counted, Interrupter(0) as counter:
        expected = counted(small, seed=8, **SHORT).frames
    pipeline, draw = player.load(), random.Random(0)
    for at in draw.sample(range(1, len(counter.places)), INTERRUPTS):
        with suppress(KeyboardInterrupt), Interrupter(at):  # its lines may be fewer than those of the first video
            pipeline(small, seed=8, **SHORT)
        assert np.array_equal(pipeline(photo, seed=5, **SHORT).frames, want), at
    assert np.array_equal(pipeline(small, seed=8, **SHORT).frames, expected)
    pipeline.close()
    gc.collect()
    if player.machine:
        assert player.machine.gpu.used == 0


@pytest.mark.usefixtures("_plain_trace")
@pytest.mark.parametrize("cancel", [None, threading.Event()])
def test_ctrl_c_at_every_line_lets_the_next_call_in(cancel: threading.Event | None) -> None:
    """Also one of another thread, except where this one could be cancelled: the lock then stays its own."""
    manifest = example()
    backend = Recorder(manifest)
    pipeline = Pipeline(Bundle(Path("nowhere"), manifest), backend)
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 1, "cancel": cancel}
    with Interrupter(0) as counter:
        pipeline(np.zeros((64, 96, 3)), **options)
    assert len(set(counter.places)) > 150
    for at in {place: number for number, place in enumerate(counter.places, start=1)}.values():
        with suppress(KeyboardInterrupt), Interrupter(at):
            pipeline(np.zeros((64, 96, 3)), **options)
        backend.runs.clear()
        frames: list[np.ndarray] = []
        call = partial(pipeline, np.zeros((64, 96, 3)), **options)
        if cancel is None:
            worker = threading.Thread(target=lambda: frames.append(call().frames), daemon=True)  # noqa: B023
            worker.start()
            worker.join(20)
        else:
            frames.append(call().frames)
        assert frames, counter.places[at - 1]


@pytest.mark.parametrize("name", ["latents", "noise"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_injected_numbers_are_finite(small_bundle: Path, photo: Image.Image, name: str, value: float) -> None:
    array = np.zeros(LATENTS if name == "latents" else (1, 3, 32, 32))
    array.flat[7] = value
    with pytest.raises(UsageError, match=f"^{name} has NaN or infinity: give finite numbers$"):
        Pipeline.load(small_bundle, "onnxruntime-cpu")(photo, **dict[str, Any]({name: array}))


def test_injected_latents_are_finite_at_the_first_noise_level(small_bundle: Path, photo: Image.Image) -> None:
    with pytest.raises(UsageError, match="the latents times the first noise level has NaN or infinity"):
        Pipeline.load(small_bundle, "onnxruntime-cpu")(photo, latents=np.full(LATENTS, 1e38))


def test_latents_that_overflow_on_the_gpu_are_no_video(bundle_copy: Path, photo: Image.Image, want: np.ndarray) -> None:
    """Which step it was is known if a callback looks at its latents."""
    pipeline = Machine(bundle_copy).pipeline()

    def spoil(outputs: Any) -> None:
        ctypes.memset(outputs["next_latents"].address, 0xFF, 64)  # NaN

    for at, options, says in (
        (2, {}, "one of 2 steps gave latents with NaN or infinity: look for damaged weights"),
        (2, {"callback": lambda *_: None}, "step 1 of 2 gave latents with NaN"),
        (3, {}, "one of 2 steps gave latents with NaN"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            poison(pipeline, patch, at, spoil)
            with pytest.raises(VcutError, match=says) as caught:
                pipeline(photo, seed=8, **options, **SHORT)
        assert caught.value.exit_code == 1
        assert np.array_equal(pipeline(photo, seed=5, **SHORT).frames, want)


def reseal(bundle: Path, weights: str, precision: str | None = None) -> None:
    """Fill a weights file with NaN, and make the manifest say that this is right."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    file = bundle / manifest["weights"][f"{weights}.weights"]["file"]
    file.write_bytes(b"\xff" * file.stat().st_size)
    manifest["weights"][f"{weights}.weights"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest["precision"] = precision or manifest["precision"]
    path.write_text(json.dumps(manifest))


def test_a_run_whose_latents_are_nan_exits_with_1_and_writes_nothing(
    bundle_copy: Path, photo: Image.Image, tmp_path: Path
) -> None:
    reseal(bundle_copy, "unet")
    photo.save(tmp_path / "photo.png")
    code = "from vcut_runtime.cli import main; main()"
    arguments = ["run", bundle_copy, tmp_path / "photo.png", "-o", tmp_path / "out.mp4", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == (
        "error: step 1 of 4 gave latents with NaN or infinity: look for damaged weights and extreme options\n"
    )
    assert not (tmp_path / "out.mp4").exists()


def test_an_overflow_in_fp16_says_which_precision_to_export(bundle_copy: Path, photo: Image.Image) -> None:
    reseal(bundle_copy, "unet", precision="fp16")
    with pytest.raises(VcutError, match=r"step 1 of 4 .*: fp16 overflows there, so export with --precision bf16 or fp"):
        Pipeline.load(bundle_copy, "onnxruntime-cpu")(photo, seed=0)


def test_an_image_encoder_that_overflows_is_named(bundle_copy: Path, photo: Image.Image) -> None:
    reseal(bundle_copy, "condition")
    with pytest.raises(VcutError, match="the image encoder gave image_latents with NaN or infinity"):
        Pipeline.load(bundle_copy, "onnxruntime-cpu")(photo, seed=0)
