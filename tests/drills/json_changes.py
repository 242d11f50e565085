"""Changes of a manifest's JSON: each takes the manifest and a generator of random numbers, and changes it in place."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

Change = Callable[[dict[str, Any], random.Random], object]

_DEEP: Any = 0
for _ in range(400):
    _DEEP = [_DEEP]

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    2**53 + 1,
    2**63,
    10**20,
    -(10**20),
    0.5,
    -0.0,
    1e-46,
    1e-320,
    1e38,
    1e39,
    -1e39,
    1e308,
    "",
    "x",
    "\x1b[2J\x1b]0;owned\x07",
    "[red]bold[/x]",
    "line\nline",
    "\u202egnp.exe",
    "../../etc/passwd",
    "/dev/zero",
    "long" * 20000,
    "semantic_binding",
    [],
    {},
    [1, 2, 3],
    _DEEP,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def _parent(manifest: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        manifest = manifest[key]
    return manifest


def _get(manifest: Any, path: tuple[Any, ...]) -> Any:
    return _parent(manifest, path)[path[-1]]


def _set(manifest: Any, path: tuple[Any, ...], value: Any) -> None:
    _parent(manifest, path)[path[-1]] = copy.deepcopy(value)


def _pick(manifest: Any, draw: random.Random, wanted: Callable[[Any], bool] = lambda value: True) -> tuple[Any, ...]:
    """Return the path of a value: first a field of the manifest is drawn, so that long lists do not outweigh others."""
    while True:
        field = draw.choice(list(manifest))
        paths = [(field, *path) for path in places(manifest[field])] + [(field,)]
        paths = [path for path in paths if wanted(_get(manifest, path))]
        if paths:
            return draw.choice(paths)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def replace_value(manifest: dict[str, Any], draw: random.Random) -> None:
    """Put a value of any kind in the place of another."""
    _set(manifest, _pick(manifest, draw), draw.choice(VALUES))


def replace_number(manifest: dict[str, Any], draw: random.Random) -> None:
    """Put a number in the place of another, of the same type."""
    path = _pick(manifest, draw, _is_number)
    same = [v for v in VALUES if type(v) is type(_get(manifest, path))]
    _set(manifest, path, draw.choice(same))


def shift_number(manifest: dict[str, Any], draw: random.Random) -> None:
    """Change a number a little."""
    path = _pick(manifest, draw, _is_number)
    value = _get(manifest, path)
    _set(manifest, path, draw.choice([value + 1, value - 1, value * 2, -value, value * 1000]))


def delete(manifest: dict[str, Any], draw: random.Random) -> None:
    """Take something away."""
    path = _pick(manifest, draw)
    del _parent(manifest, path)[path[-1]]


def add_field(manifest: dict[str, Any], draw: random.Random) -> None:
    """Add a field that nobody knows."""
    path = _pick(manifest, draw, lambda value: isinstance(value, dict))
    _get(manifest, path)[draw.choice(["extra", "", "\x1b[31m", "__class__", "file"])] = draw.choice(VALUES)


def rename_key(manifest: dict[str, Any], draw: random.Random) -> None:
    """Give something another name."""
    path = _pick(manifest, draw, lambda value: isinstance(value, dict) and bool(value))
    target = _get(manifest, path)
    key = draw.choice(list(target))
    target[draw.choice(["renamed", "[/x]", "\x1b[2J", key.upper(), key + " "])] = target.pop(key)


def change_list(manifest: dict[str, Any], draw: random.Random) -> None:
    """Repeat, drop, swap or reverse entries of a list."""
    path = _pick(manifest, draw, lambda value: isinstance(value, list) and len(value) > 1)
    target = _get(manifest, path)
    i, j = draw.randrange(len(target)), draw.randrange(len(target))
    how = draw.randrange(4)
    if how == 0:
        target.insert(i, copy.deepcopy(target[j]))
    elif how == 1:
        del target[i]
    elif how == 2:
        target[i], target[j] = target[j], target[i]
    else:
        target.reverse()


def swap_values(manifest: dict[str, Any], draw: random.Random) -> None:
    """Let two values change places."""
    first, second = _pick(manifest, draw), _pick(manifest, draw)
    if first[: len(second)] == second or second[: len(first)] == first:
        return replace_value(manifest, draw)
    a, b = _get(manifest, first), _get(manifest, second)
    _set(manifest, first, b)
    _set(manifest, second, a)
    return None


def change_scheduler(manifest: dict[str, Any], draw: random.Random) -> None:
    """Change a constant of the noise schedule."""
    key = draw.choice(list(manifest["scheduler"]))
    manifest["scheduler"][key] = draw.choice([0, -1.0, 0.01, 1e-30, 1e30, 1e38, 1e39, 500.0])


def change_row(manifest: dict[str, Any], draw: random.Random) -> None:
    """Change a row of the default schedule."""
    row = draw.choice(manifest["schedules"]["vcut"])
    key = draw.choice(["sigma", "coefficients", "noise", "graph", "bias"])
    extreme = draw.choice([0.0, -1.0, 1e-40, 1e20, 3e38, 1e39])
    values = {
        "coefficients": [draw.choice([0.0, 1.0, extreme]) for _ in range(3)],
        "graph": draw.choice(list(manifest["graphs"])),
        "bias": draw.choice(["both", "mean", "cond"]),
    }
    row[key] = values.get(key, extreme)


def change_schedules(manifest: dict[str, Any], draw: random.Random) -> None:
    """Make a schedule too long, too short, or of another order."""
    rows = manifest["schedules"]["vcut"]
    how = draw.randrange(4)
    if how == 0:
        manifest["schedules"]["vcut"] = rows * draw.choice([2, 300, 3000])
    elif how == 1:
        first = rows[0]
        many = draw.choice([1000, 1001, 4000])
        manifest["schedules"]["vcut"] = [{**first, "sigma": 700 - 0.1 * i} for i in range(many)]
    elif how == 2:
        rows.reverse()
    else:
        del rows[1:]


def change_config(manifest: dict[str, Any], draw: random.Random) -> None:
    """Change diffusers' configuration of a component, which the runtime reads for its estimates."""
    configs = manifest["model"]["configs"]
    component = draw.choice(["unet", "image_encoder"])
    keys = ["block_out_channels", "layers_per_block", "num_attention_heads", "down_block_types", "up_block_types"]
    key = draw.choice([*keys, "transformer_layers_per_block", "image_size", "in_channels"])
    configs[component][key] = draw.choice([*VALUES, [10**6] * 4, ["32", "64"], [32], [32, 64] * 500, [[32], [64]]])


CHANGES: tuple[Change, ...] = (
    replace_value,
    replace_value,
    replace_number,
    replace_number,
    shift_number,
    delete,
    add_field,
    rename_key,
    change_list,
    swap_values,
    change_scheduler,
    change_row,
    change_schedules,
    change_config,
)
