"""Writing ONNX graphs and the weights they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from vcut_runtime.bundle.manifest import FileEntry

INLINE_BYTES = 1024  # smaller constants stay in the graph file, where TensorRT and people look for them
_PAGE = 4096  # large tensors start on a page, so that runtimes can map them
_SMALL_ALIGNMENT, _SMALL_BYTES = 64, 65536


def write_weights(models: Sequence[ir.Model], path: Path) -> tuple[FileEntry, dict[str, ir.ExternalTensor]]:
    """Write the weights of all ``models`` once, by name, and return the file's entry and where each tensor lies.

    Models traced from one module share parameter names; a name stands for the same values in all of them.
    """
    tensors: dict[str, ir.TensorProtocol] = {}
    for model in models:
        for name, value in model.graph.initializers.items():
            if value.const_value is not None and value.const_value.nbytes >= INLINE_BYTES:
                tensors.setdefault(name, value.const_value)
    digest, written = hashlib.sha256(), {}
    with path.open("wb") as file:

        def put(data: Any) -> None:
            file.write(data)
            digest.update(data)

        offset = 0
        for name in sorted(tensors):
            tensor = tensors[name]
            padding = -offset % (_SMALL_ALIGNMENT if tensor.nbytes < _SMALL_BYTES else _PAGE)
            put(bytes(padding))
            offset += padding
            data = tensor.tobytes()
            put(data)
            written[name] = ir.ExternalTensor(
                path.name,
                offset,
                len(data),
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=name,
                base_dir=path.parent,
            )
            offset += len(data)
    return FileEntry(file=path.name, bytes=offset, sha256=digest.hexdigest()), written


def write_graph(
    model: ir.Model, path: Path, weights: Mapping[str, ir.ExternalTensor], metadata: Mapping[str, str]
) -> FileEntry:
    """Write ``model`` with its weights referring to ``weights``, and check it with onnx's checker."""
    import onnx

    for name, value in model.graph.initializers.items():
        if name in weights:
            external = weights[name]
            tensor = value.const_value
            if tensor is not None and (tensor.shape != external.shape or tensor.dtype != external.dtype):
                raise RuntimeError(f"two graphs disagree about the weight {name}")
            value.const_value = external
    model.producer_name = "vcut"
    model.producer_version = metadata["vcut_version"]
    model.domain = "vcut"
    model.doc_string = metadata["description"]
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    proto = ir.to_proto(model)
    proto.ClearField("functions")
    data = proto.SerializeToString(deterministic=True)
    path.write_bytes(data)
    onnx.checker.check_model(str(path))
    return FileEntry(file=path.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
