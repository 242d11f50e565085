"""Checkpoints: what a model name means and how it is configured. Only JSON is read; see ``weights`` for the rest."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.schedule import Scheduler

# Component of the pipeline -> its configuration file in a diffusers folder.
CONFIG_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "image_encoder": "image_encoder/config.json",
    "feature_extractor": "feature_extractor/preprocessor_config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
WEIGHTED = ("unet", "vae", "image_encoder")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A model whose configuration is known; its weights may still have to be downloaded or made.

    Attributes:
        id: preset name, hub id or the folder's name, as the manifest records it.
        configs: diffusers' own configurations by component.
        hub: hub id to download from, or None.
        revision: hub commit, or the fingerprint of a local folder.
        folder: diffusers folder with the files seen so far, or None for random weights.
        seed: seed of random weights, or None for real ones.
        defaults: height, width, precision and operators that the model is normally compiled with, and what its named
            schedules were measured as with them.
    """

    id: str
    configs: Mapping[str, dict[str, Any]]
    hub: str | None
    revision: str | None
    folder: Path | None
    seed: int | None
    defaults: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """A fingerprint of the weights and configurations."""
        source = [self.id if self.seed is None else f"seed {self.seed}", self.revision, self.configs]
        return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent pixel: one halving per VAE level but the last, as diffusers computes it."""
        return 2 ** (len(self.configs["vae"]["block_out_channels"]) - 1)


def presets() -> dict[str, dict[str, Any]]:
    """Return the built-in models by name, each complete."""
    raw = json.loads(resources.files("vcut_export").joinpath("presets.json").read_text("utf-8"))

    def complete(name: str) -> dict[str, Any]:
        preset = dict(raw[name])
        if "like" in preset:
            base = raw[preset.pop("like")]
            for component in CONFIG_FILES:
                preset[component] = {**base[component], **preset.get(component, {})}
        return preset

    return {name: complete(name) for name in raw}


def resolve(model: str, *, revision: str | None = None, random_weights: bool = False, seed: int = 0) -> Checkpoint:
    """Find out what ``model`` is: a preset, a diffusers folder, or a hub id; fetches no weights.

    Raises:
        UsageError: no such model, or not an SVD checkpoint.
        VcutError: the hub is out of reach or denies access.
    """
    known = presets()
    folder = Path(model).expanduser()
    if revision is not None and (folder.is_dir() or (model in known and "hub" not in known[model])):
        raise UsageError(f"--revision is for hub models, {model} is not one: leave it out")
    if model in known:
        preset = known[model]
        defaults = {key: preset[key] for key in ("height", "width", "precision", "operators")}
        if "folder" in preset and not random_weights:
            folder = Path(str(resources.files("vcut_export").joinpath(preset["folder"])))
            configs, defaults["measurements"] = _read_configs(folder), preset.get("measurements", {})
            return _checked(Checkpoint(model, configs, None, _contents(folder), folder, None, defaults))
        if random_weights or "hub" not in preset:
            configs = {component: preset[component] for component in CONFIG_FILES}
            return _checked(Checkpoint(model, configs, None, None, None, seed, defaults))
        return _from_hub(model, preset["hub"], revision, None, defaults)
    if folder.is_dir():
        configs = _read_configs(folder)
        fingerprint = None if random_weights else _fingerprint(folder)
        name, own_seed = folder.resolve().name, seed if random_weights else None
        return _checked(Checkpoint(name, configs, None, fingerprint, folder, own_seed, _defaults(configs)))
    if folder.is_file() or folder.suffix in (".safetensors", ".ckpt", ".pt", ".bin"):
        raise UsageError(f"{model} is a single file: vcut reads diffusers folders, convert it with diffusers first")
    if _HUB_ID.fullmatch(model) and not model.startswith((".", "/", "~")):
        return _from_hub(model, model, revision, seed if random_weights else None, {})
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}, a diffusers folder or a hub id"
    raise UsageError(f"unknown model {model!r}: {hint}")


def scheduler_constants(config: Mapping[str, Any]) -> Scheduler:
    """Reduce a scheduler configuration to the constants of the one schedule that the graphs implement.

    Raises:
        UsageError: it is another schedule than SVD's (Euler, v-prediction, Karras sigmas, continuous timesteps).
    """
    expected = {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "rescale_betas_zero_snr": False,
    }
    for key, value in expected.items():
        if config.get(key, value if value is False else None) != value:
            raise UsageError(
                f"the scheduler has {key}={config.get(key)!r}, vcut compiles SVD's schedule ({key}={value!r}): "
                "use a checkpoint with that scheduler_config.json"
            )
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if low is None or high is None or not 0 < low < high:
        raise UsageError("the scheduler needs 0 < sigma_min < sigma_max: set both in scheduler_config.json")
    if config.get("final_sigmas_type", "zero") != "zero":
        raise UsageError("the scheduler has final_sigmas_type other than 'zero': set it in scheduler_config.json")
    # diffusers' init_noise_sigma: sqrt(sigma_max^2 + 1), except that two spacings leave out the 1.
    spaced = config.get("timestep_spacing", "linspace") in ("linspace", "trailing")
    scale = float(high) if spaced else (high * high + 1.0) ** 0.5
    return Scheduler(sigma_min=float(low), sigma_max=float(high), rho=7.0, final_sigma=0.0, initial_noise_scale=scale)


def _from_hub(name: str, hub: str, revision: str | None, seed: int | None, defaults: Mapping[str, Any]) -> Checkpoint:
    with hub_errors(hub):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(hub, revision=revision, allow_patterns=list(CONFIG_FILES.values())))
    configs = _read_configs(folder)
    return _checked(Checkpoint(name, configs, hub, folder.name, folder, seed, defaults or _defaults(configs)))


@contextmanager
def hub_errors(hub: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a line that names the way out."""
    try:
        yield
    except ImportError:
        raise VcutError("downloading needs the export extra: pip install 'vcut[export]'") from None
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            raise VcutError(
                f"{hub} is gated: accept its licence on its page, then log in with 'hf auth login'"
            ) from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise UsageError(f"{hub} has no such revision: check --revision") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            raise UsageError(f"the hub has no model {hub}, or it is private: check the name or log in") from None
        raise VcutError(
            f"cannot reach the hub for {hub} ({type(error).__name__}): check the network, give a local diffusers "
            "folder as --model, or use --random-weights with a preset"
        ) from None


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    unet = checkpoint.configs["unet"].get("_class_name")
    if unet != "UNetSpatioTemporalConditionModel":
        raise UsageError(f"{checkpoint.id} has a UNet of class {unet}, not an SVD model's: choose an SVD checkpoint")
    vae = checkpoint.configs["vae"].get("_class_name")
    if vae != "AutoencoderKLTemporalDecoder":
        raise UsageError(f"{checkpoint.id} has a VAE of class {vae}, not an SVD model's: choose an SVD checkpoint")
    scheduler_constants(checkpoint.configs["scheduler"])
    return checkpoint


def _defaults(configs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Default sizes of a model that is no preset.

    Every SVD checkpoint says ``sample_size: 96`` and is run at 576x1024, diffusers' default; any other value is taken
    at its word, in latent pixels.
    """
    size = configs["unet"].get("sample_size")
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    if size is None or size == 96:
        height, width = 576, 1024
    else:
        height, width = (side * factor for side in (size if isinstance(size, list) else (size, size)))
    return {"height": height, "width": width, "precision": "fp16", "operators": "gpu"}


def _contents(folder: Path) -> str:
    """The sha256 of all weights: of a model that comes with the package, on every machine the same."""
    digest = hashlib.sha256()
    for component in WEIGHTED:
        for file in sorted((folder / component).glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _fingerprint(folder: Path) -> str:
    """Name, size and modification time of every weights file: reading them whole would take minutes."""
    files = sorted(file for component in WEIGHTED for file in (folder / component).glob("*.safetensors"))
    stats = [(f.relative_to(folder).as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(json.dumps([str(folder.resolve()), stats]).encode()).hexdigest()


def _read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    configs = {component: _read_json(folder / file) for component, file in CONFIG_FILES.items()}
    needed = {
        "vae": ("block_out_channels",),
        "unet": ("block_out_channels",),
        "feature_extractor": ("image_mean", "image_std"),
    }
    for component, keys in needed.items():
        for key in keys:
            if not isinstance(configs[component].get(key), list):
                raise UsageError(f"{folder / CONFIG_FILES[component]} lacks the list {key!r}: restore the file")
    return configs


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing: --model needs a diffusers folder with {', '.join(CONFIG_FILES)}"
        ) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot read {path} ({error}): restore the file") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} does not hold a JSON object: restore the file")
    return content
