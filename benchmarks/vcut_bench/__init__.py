"""Measurements of VCUT bundles beside their peers."""
