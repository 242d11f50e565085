"""What a training keeps between its steps: weights, their moving average and the optimizer, as safetensors."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import nn

from vcut_runtime.terminal import stderr

_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


class Training:
    """A training of ``modules`` that can stop at any step and go on.

    Muon (Jordan, 2024) trains the weights named in ``matrices``, convolutions as matrices, at four times the rate;
    AdamW the others.

    The learning rate rises over ``warmup`` steps, stays, and falls to nothing in the last three tenths, so that a
    training may be given more or fewer steps while it runs. In a process group every process takes its own part of
    each step, the gradients are averaged, and the first process keeps and shows everything.
    """

    def __init__(
        self,
        name: str,
        modules: nn.ModuleDict,
        folder: Path,
        *,
        steps: int,
        rate: float,
        average: float,
        warmup: int,
        matrices: Collection[str] = (),
    ) -> None:
        self.name, self.modules, self.folder = name, modules, folder
        self.steps, self.rate, self.average, self.warmup = steps, rate, average, warmup
        self.step, self.seconds = 0, 0.0
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.parameters = dict(modules.named_parameters())
        self.averaged = {key: p.detach().clone() for key, p in self.parameters.items()}
        # What the optimizers see: a matrix is another view of the same memory.
        self._seen = {
            key: nn.Parameter(p.detach().flatten(1)) if key in matrices else p for key, p in self.parameters.items()
        }
        rest = [p for key, p in self._seen.items() if key not in matrices]
        self.optimizers: dict[torch.optim.Optimizer, float] = {}  # with their rates
        if rest:
            self.optimizers[torch.optim.AdamW(rest, rate, betas=(0.9, 0.99), weight_decay=1e-2)] = rate
        if matrices:
            own = [self._seen[key] for key in matrices]
            muon = torch.optim.Muon(own, 4 * rate, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")
            self.optimizers[muon] = 4 * rate
        self._log = folder / f"{name}.jsonl"
        if (folder / f"{name}.safetensors").exists():
            self._resume()

    def update(self, loss: torch.Tensor) -> float:
        """Take one step down ``loss``; return the norm of its gradient."""
        left = max(0.0, 1 - self.step / self.steps)
        share = min(1.0, (self.step + 1) / self.warmup, left / 0.3)
        self.modules.zero_grad(set_to_none=True)
        loss.backward()
        self._share_gradients()
        norm = float(nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0))
        for key, p in self.parameters.items():
            if self._seen[key] is not p:
                self._seen[key].grad = None if p.grad is None else p.grad.flatten(1)
        for optimizer, rate in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
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
        for key, p in self._seen.items():
            for optimizer in self.optimizers:
                for moment, value in optimizer.state.get(p, {}).items():
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
        with Progress(*columns, console=stderr, disable=self.rank > 0) as bars:
            task = bars.add_task(self.name, total=self.steps, completed=self.step, values="")
            while self.step < self.steps:
                start = time.perf_counter()
                values = step()
                self.seconds += time.perf_counter() - start
                shown = " ".join(f"{key} {value:.4f}" for key, value in values.items())
                bars.update(task, completed=self.step, values=shown)
                if self.rank == 0 and (self.step % every == 0 or self.step == self.steps):
                    with self.averaged_weights(), torch.no_grad():
                        found = report()
                    self.log(**values, **found)
                    self.save()

    def finish(self) -> nn.ModuleDict:
        """Return the modules with the moving average of their weights, for good."""
        self._set(self.averaged)
        return self.modules.eval().requires_grad_(False)

    def _share_gradients(self) -> None:
        if self.processes == 1:
            return
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, mean in zip(
            gradients, (flat / self.processes).split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

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
        for optimizer in self.optimizers:
            seen = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for key, p in self._seen.items():
                moments = {m: tensors[f"{m}.{key}"] for m in _MOMENTS if f"{m}.{key}" in tensors}
                if id(p) in seen and moments:
                    optimizer.state[p] = moments
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
