"""Compile the graphs of a bundle to TensorRT engines. Empty as yet."""
