"""Checkpoints: what a model name means, where its weights are, and the torch modules made from them.

Resolving a name reads JSON only; torch, diffusers and transformers are imported by the loaders alone.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.manifest import Precision, Scheduler

if TYPE_CHECKING:
    import torch
    from torch import nn

# Component of the pipeline -> its configuration file in a diffusers folder.
CONFIG_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "image_encoder": "image_encoder/config.json",
    "feature_extractor": "feature_extractor/preprocessor_config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
WEIGHTED = ("unet", "vae", "image_encoder")
_WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
}
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
        defaults: height, width and precision that the model is normally run with.
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
    if model in known:
        preset = known[model]
        defaults = {key: preset[key] for key in ("height", "width", "precision")}
        if random_weights or "hub" not in preset:
            configs = {component: preset[component] for component in CONFIG_FILES}
            return _checked(Checkpoint(model, configs, None, None, None, seed, defaults))
        return _from_hub(model, preset["hub"], revision, None, defaults)
    folder = Path(model).expanduser()
    if folder.is_dir():
        configs = {component: _read_json(folder / file) for component, file in CONFIG_FILES.items()}
        found = None if random_weights else _fingerprint(folder)
        checkpoint = Checkpoint(
            folder.resolve().name, configs, None, found, folder, seed if random_weights else None, _defaults(configs)
        )
        return _checked(checkpoint)
    if _HUB_ID.fullmatch(model) and not model.startswith((".", "/", "~")):
        return _from_hub(model, model, revision, seed if random_weights else None, {})
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}, a diffusers folder or a hub id"
    raise UsageError(f"unknown model {model!r}: {hint}")


def download(checkpoint: Checkpoint, precision: Precision) -> Checkpoint:
    """Fetch the weights of a hub checkpoint into the hub's cache; anything else is returned as it is.

    Raises:
        VcutError: the hub is out of reach, or has no safetensors for a component.
    """
    if checkpoint.hub is None or checkpoint.seed is not None:
        return checkpoint
    patterns = [f"{component}/*.safetensors*" for component in WEIGHTED]
    half = [f"{component}/*.fp16.safetensors*" for component in WEIGHTED]
    with _hub_errors(checkpoint.hub):
        from huggingface_hub import snapshot_download

        ignore = half if precision == "fp32" else None
        allow = list(CONFIG_FILES.values()) + (patterns if precision == "fp32" else half)
        folder = Path(
            snapshot_download(
                checkpoint.hub, revision=checkpoint.revision, allow_patterns=allow, ignore_patterns=ignore
            )
        )
        if any(weight_variant(folder, component, precision) is None for component in WEIGHTED):
            folder = Path(
                snapshot_download(
                    checkpoint.hub,
                    revision=checkpoint.revision,
                    allow_patterns=list(CONFIG_FILES.values()) + patterns,
                )
            )
    return replace(checkpoint, folder=folder)


def weight_variant(folder: Path, component: str, precision: Precision) -> str | None:
    """Return which weights to load from ``folder``: ``"fp16"``, ``""`` for the plain ones, None if there are none."""
    stem = _WEIGHT_FILES[component]
    variants = ("", "fp16") if precision == "fp32" else ("fp16", "")
    for variant in variants:
        name = f"{stem}.{variant}" if variant else stem
        for pattern in (
            f"{name}.safetensors",
            f"{name}.safetensors.index.json",
            f"{stem}.safetensors.index.{variant}.json",
        ):
            if (folder / component / pattern).is_file():
                return variant
    return None


def check_weights(checkpoint: Checkpoint, precision: Precision) -> None:
    """Refuse a folder without safetensors.

    Raises:
        UsageError: a component has no ``.safetensors`` file.
    """
    if checkpoint.folder is None or checkpoint.seed is not None:
        return
    for component in WEIGHTED:
        if weight_variant(checkpoint.folder, component, precision) is None:
            raise UsageError(
                f"{checkpoint.folder / component} has no {_WEIGHT_FILES[component]}.safetensors: vcut reads only "
                "safetensors, save the model again with safe_serialization=True"
            )


def load_unet(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``UNetSpatioTemporalConditionModel`` in evaluation mode."""
    from diffusers import UNetSpatioTemporalConditionModel

    return _load(checkpoint, "unet", UNetSpatioTemporalConditionModel, precision, dtype)


def load_vae(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``AutoencoderKLTemporalDecoder`` in evaluation mode."""
    from diffusers import AutoencoderKLTemporalDecoder

    return _load(checkpoint, "vae", AutoencoderKLTemporalDecoder, precision, dtype)


def load_image_encoder(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``CLIPVisionModelWithProjection`` in evaluation mode."""
    from transformers import CLIPVisionModelWithProjection

    return _load(checkpoint, "image_encoder", CLIPVisionModelWithProjection, precision, dtype)


def scheduler_constants(config: Mapping[str, Any]) -> Scheduler:
    """Reduce a scheduler configuration to the constants of the one schedule that the graphs implement.

    Raises:
        UsageError: it is another schedule than SVD's (Euler, v-prediction, Karras sigmas, continuous timesteps).
    """
    wanted = {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "rescale_betas_zero_snr": False,
    }
    for key, value in wanted.items():
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


def _load(checkpoint: Checkpoint, component: str, kind: Any, precision: Precision, dtype: torch.dtype) -> Any:
    if checkpoint.seed is not None:
        return _random(checkpoint, component, kind, dtype)
    assert checkpoint.folder is not None, "weights are resolved before they are loaded"
    variant = weight_variant(checkpoint.folder, component, precision) or None
    dtype_name = "dtype" if component == "image_encoder" else "torch_dtype"
    try:
        model = kind.from_pretrained(
            str(checkpoint.folder),
            subfolder=component,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            **{dtype_name: dtype},
        )
    except Exception as error:  # diffusers and safetensors raise many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VcutError(f"cannot load {component} from {checkpoint.folder}: {reason}") from error
    return model.eval().requires_grad_(False)


def _random(checkpoint: Checkpoint, component: str, kind: Any, dtype: torch.dtype) -> Any:
    """Build ``kind`` with seeded weights of a sensible scale, each parameter drawn from its own name."""
    import torch
    from accelerate import init_empty_weights

    config = {key: value for key, value in checkpoint.configs[component].items() if not key.startswith("_")}
    with init_empty_weights():
        if component == "image_encoder":
            from transformers import CLIPVisionConfig

            model: nn.Module = kind(CLIPVisionConfig(**config))
        else:
            model = kind(**config)
    for name, module in model.named_modules():
        for key, empty in list(module.named_parameters(recurse=False)):
            seed = zlib.crc32(f"{checkpoint.seed}/{component}.{name}.{key}".encode())
            generator = torch.Generator().manual_seed(seed)
            value = torch.empty(empty.shape, dtype=dtype)
            if value.ndim > 1:
                value.normal_(0.0, value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(0.0, 0.05, generator=generator)
                if key == "weight":
                    value += 1.0  # a normalisation's scale
            setattr(module, key, torch.nn.Parameter(value, requires_grad=False))
    return model.eval()


def save_checkpoint(checkpoint: Checkpoint, folder: Path, precision: Precision = "fp32") -> None:
    """Write ``checkpoint`` as a diffusers folder that ``StableVideoDiffusionPipeline.from_pretrained`` loads."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    scheduler: Any = EulerDiscreteScheduler.from_config(dict(checkpoint.configs["scheduler"]))
    extractor = {k: v for k, v in checkpoint.configs["feature_extractor"].items() if not k.endswith("_type")}
    StableVideoDiffusionPipeline(
        vae=load_vae(checkpoint, precision, dtype),
        image_encoder=load_image_encoder(checkpoint, precision, dtype),
        unet=load_unet(checkpoint, precision, dtype),
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(**extractor),
    ).save_pretrained(folder, safe_serialization=True)


def _from_hub(name: str, hub: str, revision: str | None, seed: int | None, defaults: Mapping[str, Any]) -> Checkpoint:
    with _hub_errors(hub):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(hub, revision=revision, allow_patterns=list(CONFIG_FILES.values())))
    configs = {component: _read_json(folder / file) for component, file in CONFIG_FILES.items()}
    return _checked(Checkpoint(name, configs, hub, folder.name, folder, seed, defaults or _defaults(configs)))


@contextmanager
def _hub_errors(hub: str) -> Iterator[None]:
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
        return {"height": 576, "width": 1024, "precision": "fp16"}
    height, width = size if isinstance(size, list) else (size, size)
    return {"height": height * factor, "width": width * factor, "precision": "fp16"}


def _fingerprint(folder: Path) -> str:
    """Name, size and modification time of every weights file: reading them whole would take minutes."""
    files = sorted(file for component in WEIGHTED for file in (folder / component).glob("*.safetensors"))
    stats = [(f.relative_to(folder).as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(json.dumps([str(folder.resolve()), stats]).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing: --model wants a diffusers folder with {', '.join(CONFIG_FILES)}"
        ) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot read {path} ({error}): restore the file") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object: restore the file")
    return content
