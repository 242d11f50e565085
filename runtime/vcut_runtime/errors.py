"""Errors a user can cause. Each message is one line that names the cause and the fix."""

from __future__ import annotations


class VcutError(Exception):
    """Something failed that no option could have avoided; commands exit with 1."""

    exit_code = 1


class UsageError(VcutError, ValueError):
    """The call itself is wrong; commands exit with 2."""

    exit_code = 2


class BundleError(VcutError):
    """A bundle is damaged, foreign or unsafe."""


class Cancelled(VcutError):
    """A video was cancelled by its caller. The pipeline can make the next one at once."""


def first_line(error: object) -> str:
    """Return the first line of an error's text, or its type's name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message: nested libraries give their reason there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
