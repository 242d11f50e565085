"""Checkpoint to ONNX graphs. Everything that decides what a graph computes lives in this folder.

Its code is therefore part of every graph's fingerprint: a change here makes the next export rebuild the graphs, and a
change anywhere else does not. See :mod:`vcut_export.fingerprint`.
"""
