"""A bundle in NVIDIA's Triton Inference Server: a model repository for its Python backend."""
