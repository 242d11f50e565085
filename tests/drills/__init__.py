"""Drills: hostile and damaged input by the hundred, made from fixed seeds."""
