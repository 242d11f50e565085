"""Arrays and tensors of other libraries, without an import of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vcut_runtime import UsageError
from vcut_runtime.arrays import as_array

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def wrapped(protocol: str) -> Any:
    """Return an array of an unknown library that has one of the two protocols."""

    def give(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return getattr(VALUES, protocol)(*arguments, **keywords)

    return type("Foreign", (), {protocol: give, "__dlpack_device__": lambda self: VALUES.__dlpack_device__()})()


@pytest.mark.parametrize(
    "value",
    [
        VALUES,
        torch.from_numpy(VALUES),
        torch.from_numpy(VALUES).requires_grad_(),
        torch.from_numpy(VALUES).double(),
        torch.from_numpy(VALUES).half(),
        torch.from_numpy(VALUES).bfloat16(),
        torch.from_numpy(VALUES.T.copy()).T,
        wrapped("__array__"),
        wrapped("__dlpack__"),
    ],
)
def test_values_of_every_library(value: Any) -> None:
    array = as_array(value)
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, VALUES)


@pytest.mark.parametrize("value", [None, 3, "text", b"bytes", [1.0], object()])
def test_what_is_no_array(value: Any) -> None:
    assert as_array(value) is None


def test_values_that_a_library_keeps_to_itself() -> None:
    with pytest.raises(UsageError, match=r"cannot read a torch\.Tensor \(.*\): give a numpy array") as caught:
        as_array(torch.zeros(2, device="meta"))
    assert "\n" not in str(caught.value)
