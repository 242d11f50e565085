"""What a service takes and keeps."""

from __future__ import annotations

from dataclasses import dataclass

from vcut_serving.given_photo import MOST_MEGAPIXELS

KEY = "VCUT_API_KEY"  # environment variable


@dataclass(frozen=True)
class Settings:
    """What a service takes and keeps.

    Attributes:
        results: folder or fsspec URL of the jobs.
        queue: jobs that may wait or run at a time.
        most_bytes: of a request.
        most_pixels: of a photograph.
        expiry: seconds that a finished job is kept.
        api_key: that every request must carry; None for no key.
    """

    results: str
    queue: int = 32
    most_bytes: int = 32 << 20
    most_pixels: int = MOST_MEGAPIXELS * 1_000_000
    expiry: float = 24 * 3600
    api_key: str | None = None
