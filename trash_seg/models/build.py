"""From two names to a network."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch

from trash_seg.config import Config
from trash_seg.errors import ConfigError, UnsupportedPairError, is_out_of_memory
from trash_seg.models.pretrained import SMP_ENCODERS, load_pretrained

FILE_OPTIONS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""timm's: they would load weights from anywhere, in any format."""
REFUSED_OPTIONS = {
    **dict.fromkeys((*FILE_OPTIONS, "encoder_weights"), "weights come by encoder.weights"),
    "activation": "the losses take logits",
    "aux_params": "the losses take one output, the logits",
    "in_channels": "images have the 3 channels of RGB",
    "classes": "data.classes decides it",
}
"""Options that would build, and break later or quietly make the loss another."""


def build_model(config: Config) -> smp.base.SegmentationModel:
    """The network of a run on the CPU: (N, 3, H, W) float32 normalised → logits (N, C, H, W).

    The decoder is initialised from torch's global generator, the encoder from there or from pretrained weights.

    Raises:
        UnsupportedPairError: SMP cannot build the pair.
        ConfigError: The decoder refuses an option, or the image size.
        WeightsError: The pretrained weights are not to be had.
    """
    model = _create(config)
    _check_image_size(model, config.training.image_size)
    if config.encoder.weights is not None:
        load_pretrained(model.encoder, config)
    return model


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def check_names(encoder: str, decoder: str, options: Collection[str]) -> None:
    """What can be said without building anything.

    Raises:
        ConfigError: There is no such encoder, decoder or option.
    """
    known_encoder = timm.is_model(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else encoder in SMP_ENCODERS
    if not known_encoder:
        registry = "timm" if encoder.startswith("tu-") else "SMP"
        raise ConfigError(f"encoder.name={encoder}: {registry} has no such encoder (timm's begin with tu-)")
    if decoder.lower() not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise ConfigError(f"decoder.name={decoder}: SMP has {', '.join(smp.MODEL_ARCHITECTURES_MAPPING)}")
    for option in options:
        if option in REFUSED_OPTIONS:
            raise ConfigError(f"decoder.options.{option}: {REFUSED_OPTIONS[option]}")
    architecture = smp.MODEL_ARCHITECTURES_MAPPING[decoder.lower()]
    known = inspect.signature(architecture).parameters
    for option in options:
        if option not in known and not encoder.startswith("tu-"):  # SMP hands those to timm, and here drops them
            offered = [name for name in known if name not in ("encoder_name", "kwargs", *REFUSED_OPTIONS)]
            raise ConfigError(f"decoder.options.{option}: smp.{architecture.__name__} has {', '.join(offered)}")


def check_forward(model: smp.base.SegmentationModel, *, image_size: int) -> None:
    """An image through the network.

    Raises:
        ConfigError: It refuses the size, as an encoder does that is made for one size.
    """
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"training.image_size={image_size}: the network refuses it ({one_line(error)})") from error
    model.train()


def options_refused(encoder: str, decoder: str, options: Mapping[str, Any], error: Exception) -> ConfigError:
    """For a pair that SMP builds without them."""
    return ConfigError(f"decoder.options={options}: {encoder} × {decoder} refuses them ({one_line(error)})")


def _create(config: Config) -> smp.base.SegmentationModel:
    encoder, decoder = config.encoder.name, config.decoder
    check_names(encoder, decoder.name, decoder.options)
    try:
        return smp.create_model(
            decoder.name, encoder, encoder_weights=None, classes=len(config.data.classes), **decoder.options
        )
    except Exception as error:  # SMP and timm refuse pairs with every kind of exception
        if isinstance(error, OSError) or is_out_of_memory(error):  # of this machine, not of the pair
            raise
        if decoder.options:
            raise options_refused(encoder, decoder.name, decoder.options, error) from error
        raise UnsupportedPairError(one_line(error)) from error


def _check_image_size(model: smp.base.SegmentationModel, size: int) -> None:
    """Raises ConfigError where SMP would refuse the size at the first step, after the data is read."""
    try:
        model.check_input_shape(torch.empty(1, 3, size, size, device="meta"))
    except RuntimeError as error:
        raise ConfigError(f"training.image_size={size}: {one_line(error)}") from error
