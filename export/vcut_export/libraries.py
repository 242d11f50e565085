"""Keeping torch's exporter, diffusers and transformers quiet about things that a user cannot change."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide the warnings and progress bars of the libraries while the body runs."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.get_verbosity()  # both set their loggers up at first use, and would undo what follows
    transformers.utils.logging.get_verbosity()
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _no_bars():
                yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the bars that transformers shows while it loads; its switch turns the hub's bars off too."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    bars, hub_bars = is_progress_bar_enabled(), not are_progress_bars_disabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            enable_progress_bar()
            if not hub_bars:
                disable_progress_bars()
