"""Writes a model repository for Triton: a configuration, a line of Python, and the bundle or a link to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from vcut_runtime import BackendOptions, UsageError, VcutError, open_bundle
from vcut_runtime.backends.registry import check_name
from vcut_runtime.video import PARTIAL
from vcut_serving.devices import runs_on_gpu
from vcut_serving.triton.model import BUNDLE
from vcut_serving.triton.signature import config_text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = "1"
_MODEL = """# Written by `vcut triton`. The model is part of vcut, which the server's Python must find.
import os
import sys

sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # the server's Python ignores it
from vcut_serving.triton.model import TritonPythonModel as TritonPythonModel
"""


def write_repository(
    bundle: Path,
    repository: Path,
    name: str,
    *,
    copy: bool,
    on_gpu: bool | None,
    instances: int,
    backend: str,
    backend_options: BackendOptions,
    most_megapixels: int,
    warm_up: bool,
) -> Path:
    """Write a model and return its folder. It appears whole or not at all.

    Args:
        bundle: its folder; every file is compared with its sha256.
        repository: folder of the models.
        name: of the model.
        copy: copy the bundle, so that the repository can move to another machine; else it is linked.
        on_gpu: whether instances run on each GPU; None decides by whether the bundle has engines.
        instances: on each GPU, or on the CPU.
        backend: as in :meth:`vcut_runtime.Pipeline.load`.
        backend_options: likewise.
        most_megapixels: of a photograph's file.
        warm_up: whether an instance makes a video before it is ready.

    Raises:
        UsageError: the name is impossible, or is taken.
        BundleError: the bundle is damaged.
        VcutError: the disk refused it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"the model's name is {name!r}: give letters, digits, '.', '_' and '-'")
    target = repository / name
    if os.path.lexists(target):
        raise UsageError(f"{target} is already there: remove it, or choose another --name")
    check_name(backend)
    manifest = open_bundle(bundle).manifest
    parameters = {
        "backend": backend,
        "backend_options": json.dumps(asdict(backend_options)),
        "most_megapixels": str(most_megapixels),
    }
    config = config_text(
        name,
        on_gpu=runs_on_gpu(manifest, backend) if on_gpu is None else on_gpu,
        instances=instances,
        parameters=parameters,
        warm_up=warm_up,
    )
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=repository, prefix=PARTIAL) as folder:
            made = Path(folder) / name
            version = made / _VERSION
            version.mkdir(parents=True)
            (made / "config.pbtxt").write_text(config)
            (version / "model.py").write_text(_MODEL)
            if copy:
                shutil.copytree(bundle, version / BUNDLE)
            else:
                (version / BUNDLE).symlink_to(bundle.resolve(), target_is_directory=True)
            made.rename(target)
    except OSError as error:
        raise VcutError(f"cannot write {target} ({error.strerror or error}): choose another place") from None
    return target
