"""The losses: torch's cross-entropy and SMP's own."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor

from trash_seg.config import LossConfig

Criterion = Callable[[Tensor, Tensor], Tensor]


def build_loss(
    config: LossConfig, *, pixels: npt.NDArray[np.int64] | None, device: torch.device, deterministic: bool = False
) -> Criterion:
    """The loss of logits (N, C, H, W) float32 against masks (N, H, W) int64, as a scalar.

    Args:
        config: Which loss.
        pixels: (C,) training pixels of each class; only `class_weights=balanced` needs them.
        device: Where logits and masks lie.
        deterministic: Sum in a fixed order on CUDA too.
    """
    weights = _class_weights(config, pixels=pixels, device=device)
    cross_entropy = partial(
        _cross_entropy, weights=weights, label_smoothing=config.label_smoothing, deterministic=deterministic
    )
    match config.name:
        case "cross_entropy":
            return cross_entropy
        case "dice":
            return smp.losses.DiceLoss(mode="multiclass")  # type: ignore[no-any-return]
        case "focal":
            return smp.losses.FocalLoss(mode="multiclass", gamma=config.focal_gamma)  # type: ignore[no-any-return]
        case "lovasz":
            return smp.losses.LovaszLoss(mode="multiclass")  # type: ignore[no-any-return]
        case _:
            dice, weight = smp.losses.DiceLoss(mode="multiclass"), config.dice_weight
            return lambda logits, masks: (1 - weight) * cross_entropy(logits, masks) + weight * dice(logits, masks)


def _cross_entropy(
    logits: Tensor, masks: Tensor, *, weights: Tensor | None, label_smoothing: float, deterministic: bool
) -> Tensor:
    """`F.cross_entropy`, but 0 instead of NaN for a batch in which every pixel has weight 0."""
    if weights is None and deterministic:  # on CUDA torch adds the losses of the pixels by atomics
        return F.cross_entropy(logits, masks, reduction="none", label_smoothing=label_smoothing).mean()
    if weights is None:
        return F.cross_entropy(logits, masks, label_smoothing=label_smoothing)
    losses = F.cross_entropy(logits, masks, weight=weights, reduction="none", label_smoothing=label_smoothing)
    return losses.sum() / weights[masks].sum().clamp_min(torch.finfo(weights.dtype).tiny)


def _class_weights(config: LossConfig, *, pixels: npt.NDArray[np.int64] | None, device: torch.device) -> Tensor | None:
    """`balanced` weighs each class by the inverse of its share of pixels, so that the mean weight of a pixel is 1.

    A class without a training pixel gets 0: no pixel could ever use its weight.
    """
    if config.class_weights is None:
        return None
    weights = config.class_weights
    if weights == "balanced":
        assert pixels is not None
        present = pixels > 0
        weights = np.where(present, pixels.sum() / (present.sum() * np.maximum(pixels, 1)), 0.0)
    return torch.as_tensor(weights, dtype=torch.float32, device=device)
