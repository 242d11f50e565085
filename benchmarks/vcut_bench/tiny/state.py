"""What a training keeps between its steps: weights, their moving average and the optimizer, as safetensors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import nn

from vcut_runtime.terminal import stderr


class Training:
    """An AdamW training of ``modules`` that can stop at any step and go on.

    The learning rate rises over ``warmup`` steps, stays, and falls to nothing in the last three tenths, so that a
    training may be given more or fewer steps while it runs.
    """

    def __init__(
        self, name: str, modules: nn.ModuleDict, folder: Path, *, steps: int, rate: float, average: float, warmup: int
    ) -> None:
        self.name, self.modules, self.folder = name, modules, folder
        self.steps, self.rate, self.average, self.warmup = steps, rate, average, warmup
        self.step, self.seconds = 0, 0.0
        self.parameters = dict(modules.named_parameters())
        self.averaged = {key: p.detach().clone() for key, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(modules.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-2)
        self._log = folder / f"{name}.jsonl"
        if (folder / f"{name}.safetensors").exists():
            self._resume()

    def update(self, loss: torch.Tensor) -> float:
        """Take one step down ``loss``; return the norm of its gradient."""
        left = max(0.0, 1 - self.step / self.steps)
        rate = self.rate * min(1.0, (self.step + 1) / self.warmup, left / 0.3)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0))
        self.optimizer.step()
        self.step += 1
        keep = min(self.average, self.step / (self.step + 10))
        with torch.no_grad():
            for key, p in self.parameters.items():
                self.averaged[key].lerp_(p, 1 - keep)
        return norm

    def log(self, **values: float) -> None:
        """Append a line to the training's log."""
        line = {"step": self.step, "seconds": round(self.seconds, 1), **{k: round(v, 5) for k, v in values.items()}}
        with self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """While active, the modules hold the moving average of their weights."""
        own = {key: p.detach().clone() for key, p in self.parameters.items()}
        self._set(self.averaged)
        try:
            yield
        finally:
            self._set(own)

    def save(self) -> None:
        """Keep everything, in the place of what was kept before."""
        tensors = {f"weights.{key}": p.detach() for key, p in self.parameters.items()}
        tensors |= {f"average.{key}": value for key, value in self.averaged.items()}
        for key, p in self.parameters.items():
            for moment, value in self.optimizer.state.get(p, {}).items():
                tensors[f"{moment}.{key}"] = value
        path = self.folder / f"{self.name}.safetensors"
        partial = path.with_suffix(".partial")
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            partial,
            {"step": str(self.step), "seconds": str(self.seconds)},
        )
        partial.replace(path)

    def run(self, step: Any, every: int, report: Any) -> None:
        """Call ``step()`` until all steps are done; every ``every`` of them, and at the end, ``report()`` and save."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
        )
        with Progress(*columns, console=stderr) as bars:
            task = bars.add_task(self.name, total=self.steps, completed=self.step, values="")
            while self.step < self.steps:
                start = time.perf_counter()
                values = step()
                self.seconds += time.perf_counter() - start
                shown = " ".join(f"{key} {value:.4f}" for key, value in values.items())
                bars.update(task, completed=self.step, values=shown)
                if self.step % every == 0 or self.step == self.steps:
                    with self.averaged_weights(), torch.no_grad():
                        found = report()
                    self.log(**values, **found)
                    self.save()

    def finish(self) -> nn.ModuleDict:
        """Return the modules with the moving average of their weights, for good."""
        self._set(self.averaged)
        return self.modules.eval().requires_grad_(False)

    def _set(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for key, p in self.parameters.items():
                p.copy_(values[key])

    def _resume(self) -> None:
        from safetensors import safe_open

        path = self.folder / f"{self.name}.safetensors"
        tensors = load_file(path)
        self._set({key: tensors[f"weights.{key}"] for key in self.parameters})
        self.averaged = {key: tensors[f"average.{key}"] for key in self.parameters}
        for key, p in self.parameters.items():
            if f"exp_avg.{key}" in tensors:
                self.optimizer.state[p] = {m: tensors[f"{m}.{key}"] for m in ("step", "exp_avg", "exp_avg_sq")}
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
