"""Scores videos in one dimension. The Python that has ``vbench`` runs it, so it imports nothing of this project.

    python vbench_worker.py '{"folder": ..., "dimension": ..., "ratio": ...}'

``vbench`` needs an old transformers and numpy, so it usually lives in an environment of its own. With a list of modules
instead, the worker prints those that are missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys

# Python looks beside a script first, and the vbench.py there is not the package.
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120


def main() -> None:
    """Score the videos in ``folder``, of the prompts in its ``info.json``."""
    job = json.loads(sys.argv[1])
    if isinstance(job, list):
        print(json.dumps([name for name in job if importlib.util.find_spec(name) is None]))
        return
    import torch
    from vbench2_beta_i2v import VBenchI2V  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    VBenchI2V(device, job["folder"] + "/info.json", job["folder"]).evaluate(
        videos_path=job["folder"] + "/videos",
        name=job["dimension"],
        dimension_list=[job["dimension"]],
        resolution=job["ratio"],
        local=True,  # every file is here already, see vbench.missing_files
    )


if __name__ == "__main__":
    main()
