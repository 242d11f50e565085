"""Serving bundles: batches of photographs, and a service that speaks the video API of other servers."""
