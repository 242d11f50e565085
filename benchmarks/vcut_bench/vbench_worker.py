"""Scores the videos of a setting: run with ``python -c``, in the Python that has ``vbench``.

It imports nothing of this project, because ``vbench`` needs an old transformers and numpy.
"""

import sys

import torch
from vbench2_beta_i2v import VBenchI2V  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    folder, name, *dimensions = sys.argv[1:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # With local, weights that are missing come into vbench's cache folder, and a second run needs no network.
    VBenchI2V(device, f"{folder}/scores/info.json", f"{folder}/scores").evaluate(
        videos_path=f"{folder}/videos/{name}", name=name, dimension_list=dimensions, local=True
    )
