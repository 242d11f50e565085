"""The C interface through ctypes: its structures as ``vcut.h`` has them, and errors as exceptions."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcut_runtime.schedule import Step

ROOT = Path(__file__).parents[1]
LIBRARY = Path(os.environ.get("VCUT_CPP_LIBRARY", ROOT / "runtime/cpp/build/release/libvcut.so"))
IMAGE_SUFFIXES = (".png", ".jpg", ".mpo")  # of the files that the library decodes
NEVER = -1

Progress = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32)
Log = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)


class CStep(ctypes.Structure):
    _fields_ = (
        ("sigma", ctypes.c_double),
        ("graph", ctypes.c_char_p),
        ("bias", ctypes.c_char_p),
        ("coefficients", ctypes.c_double * 3),
        ("noise", ctypes.c_double),
    )


OnStep = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.POINTER(CStep),
    ctypes.POINTER(ctypes.c_float),
    ctypes.c_size_t,
)


OnLatents = OnStep  # it may write to the latents


class LoadOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("backend", ctypes.c_char_p),
        ("threads", ctypes.c_int32),
        ("low_memory", ctypes.c_int32),
        ("cuda_graphs", ctypes.c_int32),
        ("onnxruntime_library", ctypes.c_char_p),
        ("tensorrt_library", ctypes.c_char_p),
        ("tensorrt_rtx_library", ctypes.c_char_p),
        ("log", Log),
        ("user_data", ctypes.c_void_p),
    )


class RunOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("schedule", ctypes.c_char_p),
        ("steps", ctypes.POINTER(CStep)),
        ("step_count", ctypes.c_size_t),
        ("auto_size", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("num_frames", ctypes.c_int32),
        ("num_inference_steps", ctypes.c_int32),
        ("sigmas", ctypes.c_char_p),
        ("sigma_levels", ctypes.POINTER(ctypes.c_double)),
        ("sigma_count", ctypes.c_size_t),
        ("solver", ctypes.c_char_p),
        ("guide_from", ctypes.c_int32),
        ("cut_step", ctypes.c_int32),
        ("cache_interval", ctypes.c_int32),
        ("quality_bias", ctypes.c_char_p),
        ("min_guidance_scale", ctypes.c_double),
        ("max_guidance_scale", ctypes.c_double),
        ("guidance", ctypes.c_char_p),
        ("guidance_scales", ctypes.POINTER(ctypes.c_double)),
        ("guidance_count", ctypes.c_size_t),
        ("fps", ctypes.c_double),
        ("output_fps", ctypes.c_double),
        ("motion_bucket_id", ctypes.c_double),
        ("noise_aug_strength", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        ("has_seed", ctypes.c_int32),
        ("decode_chunk_size", ctypes.c_int32),
        ("decode_overlap", ctypes.c_int32),
        ("fit", ctypes.c_char_p),
        ("latents", ctypes.POINTER(ctypes.c_float)),
        ("latents_count", ctypes.c_size_t),
        ("noise", ctypes.POINTER(ctypes.c_float)),
        ("noise_count", ctypes.c_size_t),
        ("frames", ctypes.POINTER(ctypes.c_uint8)),
        ("frames_bytes", ctypes.c_size_t),
        ("on_progress", Progress),
        ("on_step", OnStep),
        ("on_latents", OnLatents),
        ("log", Log),
        ("user_data", ctypes.c_void_p),
        ("cancel", ctypes.c_void_p),
    )


class Image(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("path", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("data_bytes", ctypes.c_size_t),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
    )


FILE, ENCODED, RGB8, RGBF, TENSOR = range(5)


class CError(Exception):
    """What the library returned."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Library:
    """The shared library with its functions' types. Attributes are its functions without ``vcut_``."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32
        results = {
            "error_code": ctypes.c_int,
            "error_message": ctypes.c_char_p,
            "version": number,
            "bundle_model": ctypes.c_char_p,
            "bundle_schedule_name": ctypes.c_char_p,
            "bundle_schedule_count": size,
            "plan_video_bytes": size,
            "plan_step_count": size,
            "plan_step": ctypes.POINTER(CStep),
            "pipeline_backend": ctypes.c_char_p,
            "video_frames": ctypes.POINTER(ctypes.c_uint8),
            "video_seed": ctypes.c_uint64,
            "video_seconds": ctypes.c_double,
            "video_peak_memory": ctypes.c_int64,
            "video_fps": ctypes.c_double,
        }
        results |= {f"plan_{name}": number for name in ("frames", "height", "width")}
        results |= {f"video_{name}": number for name in ("frame_count", "height", "width", "has_seed")}
        nothing = ["error", "bundle", "plan", "pipeline", "video", "cancel"]
        results |= {f"{name}_destroy": None for name in nothing} | {"cancel_request": None}
        results |= {f"{name}_init_sized": None for name in ("load_options", "run_options", "image")}
        arguments: dict[str, list[Any]] = {
            "check_version": [number],
            "bundle_open": [ctypes.c_char_p, number, pointer],
            "bundle_plan": [pointer, pointer, pointer],
            "bundle_schedule_name": [pointer, size],
            "plan_step": [pointer, size],
            "pipeline_load": [ctypes.c_char_p, pointer, pointer],
            "pipeline_plan": [pointer, pointer, pointer],
            "pipeline_run": [pointer, pointer, pointer, pointer],
            "video_seconds": [pointer, ctypes.c_char_p],
            "cancel_create": [pointer],
            "noise": [ctypes.c_uint64, ctypes.c_uint32, pointer, size],
            "image_read": [pointer, number, number, ctypes.c_char_p, pointer],
            **{f"{name}_init_sized": [pointer, size] for name in ("load_options", "run_options", "image")},
            "version": [],
        }
        self._failing = {
            *("check_version", "bundle_open", "bundle_plan", "pipeline_load", "pipeline_plan", "pipeline_run"),
            *("cancel_create", "noise", "image_read"),
        }
        for name in {*results, *arguments}:
            function = getattr(self._library, f"vcut_{name}")
            function.restype = results.get(name, pointer)
            function.argtypes = arguments.get(name, [pointer])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._library, f"vcut_{name}")
        if name not in self._failing:
            return function

        def checked(*arguments: Any) -> None:
            error = function(*arguments)
            if error:
                code, message = self.error_code(error), self.error_message(error).decode()
                self.error_destroy(error)
                raise CError(code, message)

        return checked


def onnxruntime_library() -> bytes:
    """Return the library that the installed package of ONNX Runtime ships."""
    import onnxruntime

    (path,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return str(path).encode()


def run_options(library: Library, **options: Any) -> tuple[RunOptions, list[Any]]:
    """Return the structure of these options, which have the names of Python's, and what it points to."""
    result, keep = RunOptions(), []
    library.run_options_init_sized(ctypes.byref(result), ctypes.sizeof(result))
    for name, value in options.items():
        if value is None:
            continue
        if name == "schedule" and not isinstance(value, str):
            array = (CStep * len(value))(*map(_step, value))
            keep.append(array)
            result.steps, result.step_count = array, len(value)
        elif name in ("sigmas", "guidance") and not isinstance(value, str):
            array = (ctypes.c_double * len(value))(*value)
            keep.append(array)
            field = {"sigmas": ("sigma_levels", "sigma_count"), "guidance": ("guidance_scales", "guidance_count")}[name]
            setattr(result, field[0], array)
            setattr(result, field[1], len(value))
        elif name == "size":
            result.auto_size = int(value == "auto")
        elif name == "cut_step":
            result.cut_step = NEVER if value == "none" else value
        elif name == "seed":
            result.seed, result.has_seed = value, 1
        elif name in ("latents", "noise"):
            array = np.ascontiguousarray(value, dtype=np.float32)
            keep.append(array)
            setattr(result, name, array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
            setattr(result, f"{name}_count", array.size)
        elif isinstance(value, str):
            setattr(result, name, value.encode())
        else:
            keep.append(value)
            setattr(result, name, value)
    return result, keep


def _step(step: Step) -> CStep:
    coefficients = (ctypes.c_double * 3)(*step.coefficients)
    return CStep(step.sigma, step.graph.encode(), step.bias.encode(), coefficients, step.noise)


class Plan:
    """The sizes and the steps of a run."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self.sizes = tuple(getattr(library, f"plan_{name}")(handle) for name in ("frames", "height", "width"))
        self.bytes = library.plan_video_bytes(handle)
        self.steps: list[Step] = []
        for i in range(library.plan_step_count(handle)):
            row: Any = library.plan_step(handle, i).contents
            graph, bias = row.graph.decode(), row.bias.decode()
            self.steps.append(Step(row.sigma, graph, bias, tuple(row.coefficients), row.noise))
        assert not library.plan_step(handle, len(self.steps))
        library.plan_destroy(handle)


class Bundle:
    """An opened bundle."""

    def __init__(self, library: Library, folder: Path, *, hashes: bool = True) -> None:
        self.library, self.handle = library, ctypes.c_void_p()
        library.bundle_open(os.fsencode(folder), hashes, ctypes.byref(self.handle))

    def plan(self, **options: Any) -> Plan:
        """Return what a run with these options does."""
        structure, _keep = run_options(self.library, **options)
        plan = ctypes.c_void_p()
        self.library.bundle_plan(self.handle, ctypes.byref(structure), ctypes.byref(plan))
        return Plan(self.library, plan)

    def close(self) -> None:
        """Destroy the handle."""
        self.library.bundle_destroy(self.handle)
        self.handle = ctypes.c_void_p()


class Pipeline:
    """A loaded bundle."""

    def __init__(self, library: Library, folder: Path, **options: Any) -> None:
        self.library, self.handle, self.notes = library, ctypes.c_void_p(), []
        given = LoadOptions()
        library.load_options_init_sized(ctypes.byref(given), ctypes.sizeof(given))
        log = Log(lambda _, message: self.notes.append(message.decode()))
        given.log, given.onnxruntime_library = log, onnxruntime_library()
        for name, value in options.items():
            setattr(given, name, value)
        library.pipeline_load(os.fsencode(folder), ctypes.byref(given), ctypes.byref(self.handle))

    def __call__(self, image: Any, **options: Any) -> np.ndarray:
        """Return the frames of a video; ``image`` is a file or an array [H, W, 3]."""
        self.said: list[str] = []
        log = Log(lambda _, message: self.said.append(message.decode()))
        structure, _keep = run_options(self.library, log=log, **options)
        video, photo = ctypes.c_void_p(), image_of(self.library, image)
        arguments = map(ctypes.byref, (photo, structure, video))
        self.library.pipeline_run(self.handle, *arguments)
        shape = [getattr(self.library, f"video_{name}")(video) for name in ("frame_count", "height", "width")]
        frames = np.ctypeslib.as_array(self.library.video_frames(video), (*shape, 3)).copy()
        self.last = {
            "seed": self.library.video_seed(video) if self.library.video_has_seed(video) else None,
            "fps": self.library.video_fps(video),
            "seconds": {
                name: self.library.video_seconds(video, name.encode())
                for name in ("load", "condition", "semantic_binding", "quality_improvement", "decode")
            },
        }
        self.library.video_destroy(video)
        return frames

    def close(self) -> None:
        """Destroy the handle."""
        self.library.pipeline_destroy(self.handle)
        self.handle = ctypes.c_void_p()


def image_of(library: Library, image: Any) -> Image:
    """Return the structure of a file, of encoded bytes, or of an array [H, W, 3]."""
    result = Image()
    library.image_init_sized(ctypes.byref(result), ctypes.sizeof(result))
    if isinstance(image, bytes):
        result.kind, result.data_bytes = ENCODED, len(image)
        result.data = ctypes.cast(ctypes.c_char_p(image), ctypes.c_void_p)
    elif isinstance(image, np.ndarray):
        result.kind = RGB8 if image.dtype == np.uint8 else RGBF
        result.data, result.height, result.width = image.ctypes.data, image.shape[0], image.shape[1]
    else:
        result.kind, result.path = FILE, os.fsencode(image)
    return result


def read_image(library: Library, image: Any, height: int, width: int, fit: str) -> np.ndarray:
    """Return the image fitted to a size, float32 [1, 3, height, width]."""
    result = np.empty((1, 3, height, width), np.float32)
    structure = image_of(library, image)
    library.image_read(ctypes.byref(structure), height, width, fit.encode(), result.ctypes.data)
    return result


def refusal(call: Callable[[], Any], kinds: Sequence[type[BaseException]] = (CError,)) -> str | None:
    """Return the message that ``call`` fails with, None if it does not."""
    try:
        call()
    except tuple(kinds) as error:
        return str(error)
    return None
