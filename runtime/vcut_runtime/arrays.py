"""Arrays and tensors of any library as numpy arrays. No library is imported for it, torch least of all."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

from vcut_runtime.errors import UsageError, first_line


class SupportsDLPack(Protocol):
    """A tensor of torch, JAX, CuPy, TensorFlow ..."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


ArrayLike: TypeAlias = "np.ndarray | SupportsDLPack"


def as_array(value: Any) -> np.ndarray | None:
    """Return an array or a tensor as a numpy array, None if ``value`` is neither.

    torch's tensors may be on a GPU, need a gradient, or have the type bfloat16, which numpy lacks; it becomes float32.

    Raises:
        UsageError: the library does not give its values away, for instance because they are on a device.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "detach") and hasattr(value, "cpu"):  # torch
            tensor = value.detach().cpu()
            return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except Exception as error:  # each library raises its own kinds
        kind = type(value)
        raise UsageError(
            f"cannot read a {kind.__module__}.{kind.__qualname__} ({first_line(error)}): give a numpy array"
        ) from None
    return None
