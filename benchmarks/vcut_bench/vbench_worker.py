"""Scores videos in one dimension, run by the Python that has vbench: it imports nothing of this project.

    python vbench_worker.py '{"info": ..., "videos": ..., "dimension": ..., "resolution": ..., "output": ...}'

vbench wants an old transformers and numpy, so it usually lives in an environment of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys

# Python looks beside a script first, and there lies a vbench.py that is not the package.
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120


def main() -> None:
    """Write ``output/<dimension>_eval_results.json``; or, with a list of modules, print those that are missing."""
    job = json.loads(sys.argv[1])
    if isinstance(job, list):
        print(json.dumps([name for name in job if importlib.util.find_spec(name) is None]))
        return
    import torch
    from vbench2_beta_i2v import VBenchI2V  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    VBenchI2V(device, job["info"], job["output"]).evaluate(
        videos_path=job["videos"],
        name=job["dimension"],
        dimension_list=[job["dimension"]],
        resolution=job["resolution"],
        local=True,  # every file is here already: see vbench.missing_files
    )


if __name__ == "__main__":
    main()
