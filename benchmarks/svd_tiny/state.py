"""A training that can stop at any step and go on: weights, their moving average, the optimizers and the log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vcut_runtime.terminal import progress_bars

Values = dict[str, float]


class Training:
    """A training of ``modules`` that can stop at any step and go on.

    Muon (Jordan, 2024) trains the weights named in ``matrices``, convolutions as matrices, at four times the rate.
    AdamW trains the others.

    The learning rate rises over ``warmup`` steps, stays, and falls to nothing in the last three tenths, so a training
    may be given more or fewer steps while it runs. ``averaged`` are modules with the moving average of the weights.
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
        self.name, self.modules = name, modules
        self.steps, self.rate, self.warmup = steps, rate, warmup
        self.step, self.seconds = 0, 0.0
        self._average = AveragedModel(
            modules, avg_fn=lambda mean, new, n: mean + (new - mean) * (1 - min(average, (n + 1) / (n + 11)))
        )
        parameters = dict(modules.named_parameters())
        # Muon takes matrices only: each of these is a view of a weight.
        self._matrices = {parameters[key]: nn.Parameter(parameters[key].detach().flatten(1)) for key in matrices}
        self.optimizers: dict[torch.optim.Optimizer, float] = {}  # with their rates
        if rest := [p for p in parameters.values() if p not in self._matrices]:
            self.optimizers[torch.optim.AdamW(rest, rate, betas=(0.9, 0.99), weight_decay=1e-2)] = rate
        if views := list(self._matrices.values()):
            muon = torch.optim.Muon(views, 4 * rate, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")
            self.optimizers[muon] = 4 * rate
        self._log, self._file = folder / f"{name}.jsonl", folder / f"{name}.pt"
        if self._file.exists():
            kept = torch.load(self._file, weights_only=True)
            self.step, self.seconds = kept["step"], kept["seconds"]
            for part, state in zip(self._parts(), kept["parts"], strict=True):
                part.load_state_dict(state)

    @property
    def averaged(self) -> nn.ModuleDict:
        """The modules with the moving average of their weights."""
        return self._average.module  # pyright: ignore[reportReturnType]

    def update(self, loss: torch.Tensor) -> float:
        """Take one step down ``loss``; return the norm of its gradient."""
        share = min(1.0, (self.step + 1) / self.warmup, max(0.0, 1 - self.step / self.steps) / 0.3)
        self.modules.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0))
        for p, view in self._matrices.items():
            view.grad = None if p.grad is None else p.grad.flatten(1)
        for optimizer, rate in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
        self.step += 1
        self._average.update_parameters(self.modules)
        return norm

    def save(self) -> None:
        """Write everything, in the place of what was written before."""
        parts = [part.state_dict() for part in self._parts()]
        partial = self._file.with_suffix(".partial")
        torch.save({"step": self.step, "seconds": self.seconds, "parts": parts}, partial)
        partial.replace(self._file)

    def run(self, step: Callable[[], Values], every: int, report: Callable[[], Values]) -> None:
        """Call ``step()`` until all steps are done; every ``every`` of them, and at the end, ``report()`` and save."""
        with progress_bars(quiet=False) as progress:
            while self.step < self.steps:
                start = time.perf_counter()
                values = step()
                self.seconds += time.perf_counter() - start
                progress(self.name, self.step, self.steps)
                if self.step % every == 0 or self.step == self.steps:
                    with torch.no_grad():
                        values |= report()
                    line = {"step": self.step, "seconds": round(self.seconds, 1)}
                    with self._log.open("a") as file:
                        file.write(json.dumps(line | {key: round(value, 5) for key, value in values.items()}) + "\n")
                    self.save()

    def finish(self) -> nn.ModuleDict:
        """Return the modules with the moving average of their weights."""
        return self.averaged.eval().requires_grad_(False)

    def _parts(self) -> list[nn.Module | torch.optim.Optimizer]:
        return [self.modules, self._average, *self.optimizers]
