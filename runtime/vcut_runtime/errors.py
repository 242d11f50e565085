"""Errors a user can cause. Each message is one line that names the cause and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOST = 2000  # characters of a message


class VcutError(Exception):
    """Something failed that no option could have avoided; commands exit with 1.

    A message may quote what a bundle or a file says, so it is made :func:`printable`.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class UsageError(VcutError, ValueError):
    """The call itself is wrong; commands exit with 2."""

    exit_code = 2


class BundleError(VcutError):
    """A bundle is damaged, foreign or unsafe."""


class Cancelled(VcutError):
    """A video was cancelled by its caller. The pipeline can make the next one at once."""


def printable(text: str, most: int = _MOST) -> str:
    """Return ``text`` as one line of at most about ``most`` characters, safe for a terminal.

    Control characters are shown escaped: some would move the cursor or change its colours. The middle of a longer text
    is left out, because an error names its cause first and its fix last.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 2 :]}"
    return escaped(" ".join(part for part in map(str.strip, text.splitlines()) if part))


def escaped(text: str) -> str:
    """Return ``text`` with everything escaped that does not print."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def path_errors(path: str | Path, what: str, fix: str = "check the path and its permissions") -> Iterator[None]:
    """Turn the system's refusal to look at ``path`` into a UsageError.

    ``Path.is_file`` and its like raise for a name that is too long and for a folder that may not be entered.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder for ~, a link that leads to itself
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"cannot look at {what} {path} ({reason}): {fix}") from None


def first_line(error: object) -> str:
    """Return the first line of an error's text, or its type's name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message: nested libraries give their reason there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
