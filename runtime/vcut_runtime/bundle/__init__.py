"""The bundle: its graphs, its manifest, what is checked when it is opened, and how it is replaced in one step."""

from __future__ import annotations

from vcut_runtime.bundle.opening import Bundle, check_hashes, open_bundle, sha256

__all__ = ["Bundle", "check_hashes", "open_bundle", "sha256"]
