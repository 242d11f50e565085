"""The machine that this process runs on: its memory, and where files are cached."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from platformdirs import user_cache_path


def total_memory() -> int:
    """Return the machine's memory in bytes, or a huge number if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 1 << 62


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """Return the peak resident memory, in bytes, of this process or its largest child; 0 if unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak if sys.platform == "darwin" else peak * 1024


def release_freed_memory() -> None:
    """Give memory that the C library has freed back to the system, where it can (glibc); it keeps some otherwise."""
    if sys.platform == "linux" and hasattr(trim := ctypes.CDLL(None), "malloc_trim"):
        trim.malloc_trim(0)


def cache_folder() -> Path:
    """Return where kernels, timings and logs are kept: ``VCUT_CACHE``, or the user's cache folder."""
    given = os.environ.get("VCUT_CACHE")
    return Path(given) if given else user_cache_path("vcut", appauthor=False)


def file_name(text: str) -> str:
    """Return ``text`` in letters, digits and dashes, as part of a file's name."""
    return "".join(c if c.isalnum() else "-" for c in text.lower())
