"""Pretrained encoder weights: from a folder, or from the hub that SMP and timm ask."""

import logging
from pathlib import Path

import safetensors.torch
import segmentation_models_pytorch as smp
import timm
from safetensors import SafetensorError
from torch import Tensor, nn

from trash_seg.config import Config, EncoderConfig
from trash_seg.errors import WeightsError, is_out_of_memory
from trash_seg.rundir import write_atomically

SMP_ENCODERS = smp.encoders.encoders


def weights_path(encoder: EncoderConfig, weights_dir: str) -> Path:
    """Where a folder of weights holds those of an encoder."""
    return Path(weights_dir).expanduser() / f"{encoder.name.replace('/', '_')}-{encoder.weights}.safetensors"


def load_pretrained(module: nn.Module, config: Config) -> None:
    """Puts pretrained weights into an encoder: from `runtime.weights_dir` where the file is there, else from the hub.

    Raises:
        WeightsError: Neither has them, or the file does not fit. Both ways out are named.
    """
    encoder, weights_dir = config.encoder, config.runtime.weights_dir
    check_listed(encoder)
    path = None if weights_dir is None else weights_path(encoder, weights_dir)
    if path is not None and path.exists():
        _load_state(module, _read(path), source=str(path))
        return
    fetch = f"python -m trash_seg.weights fetch encoder={encoder.name} encoder.weights={encoder.weights}"
    # The client retries five times over 23 s and warns each time; the error below says it once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        state = download(config)
    except Exception as error:  # whatever the hub's client and its transport raise
        if is_out_of_memory(error):
            raise
        looked = f"{path} does not exist" if path is not None else "runtime.weights_dir is not set"
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise WeightsError(
            f"encoder.weights={encoder.weights}: no weights for {encoder.name}. {looked}, and the hub did not give "
            f"them ({cause}). Either bring them from a machine with a network (`{fetch} "
            "runtime.weights_dir=DIR`) and give runtime.weights_dir=DIR here, or train from scratch: "
            "encoder.weights=null"
        ) from error
    _load_state(module, state, source="the hub")


def check_listed(encoder: EncoderConfig) -> None:
    """Refuses a set of weights that SMP does not list; of timm's encoders each has one set or none.

    Raises:
        WeightsError: With the sets that exist.
    """
    if encoder.name.startswith("tu-"):
        listed = ["imagenet"] if timm.models.is_model_pretrained(encoder.name.removeprefix("tu-")) else []
    else:
        listed = list(SMP_ENCODERS.get(encoder.name, {}).get("pretrained_settings", ()))
    if encoder.weights not in listed:
        ways = f"{', '.join(listed)}, or null" if listed else "none: encoder.weights=null trains from scratch"
        raise WeightsError(f"encoder.weights={encoder.weights}: {encoder.name} has {ways}")


def download(config: Config) -> dict[str, Tensor]:
    """The encoder's weights from the hub (or its cache on this machine), by SMP's or timm's own loading code."""
    weights: str | bool | None = True if config.encoder.name.startswith("tu-") else config.encoder.weights
    model = smp.create_model(
        config.decoder.name, config.encoder.name, encoder_weights=weights, **config.decoder.options
    )
    return model.encoder.state_dict()  # type: ignore[no-any-return]


def save(state: dict[str, Tensor], path: Path) -> None:
    """Writes weights where `load_pretrained` finds them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
    write_atomically(path, lambda file: file.write(content))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); fetch it again") from error


def _load_state(module: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Loads the part of `state` that the encoder has: one cut to fewer stages has fewer weights."""
    own = module.state_dict()
    missing = own.keys() - state.keys()
    if missing:
        raise WeightsError(f"{source}: {len(missing)} of the encoder's weights are not in it, e.g. {min(missing)}")
    try:
        nn.Module.load_state_dict(module, {name: state[name] for name in own})
    except RuntimeError as error:
        raise WeightsError(f"{source}: the weights have other shapes than the encoder ({error})") from error
