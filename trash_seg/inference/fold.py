"""BatchNorm folded into the convolution before it: the same network but for rounding, with fewer passes over memory."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-3
"""Largest difference of the logits, as a share of the largest logit, that counts as rounding."""


@torch.no_grad()
def fold_batch_norms(model: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy of the network in which no BatchNorm is left that takes a convolution's output as it is.

    Which these are is seen in one pass.

    Args:
        model: In eval mode.
        images: (N, 3, H, W) float32, normalised, on the model's device.

    Returns:
        None where the logits differ by more than rounding, as where a convolution's output is used elsewhere too.
    """
    folded = copy.deepcopy(model)
    pairs, expected = _find_pairs(folded, images)
    for norm, conv in pairs.items():
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # What a subclass does after the norm, such as timm's activation, stands in its children.
        parent, name = _place(folded, norm)
        setattr(parent, name, nn.Sequential(*norm.children()))
    same = (folded(images) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    return folded if same else None


def _find_pairs(model: nn.Module, images: Tensor) -> tuple[dict[nn.BatchNorm2d, nn.Conv2d], Tensor]:
    """Each norm with the convolution before it, and the logits."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def after_conv(conv: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        outputs[id(output)] = conv, output  # kept, so that no other tensor gets its id

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in outputs:
            assert isinstance(norm, nn.BatchNorm2d)
            pairs[norm] = outputs[id(inputs[0])][0]

    modules = list(model.modules())
    hooks = [m.register_forward_hook(after_conv) for m in modules if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in modules if isinstance(m, nn.BatchNorm2d)]
    logits: Tensor = model(images)
    for hook in hooks:
        hook.remove()
    return pairs, logits


def _place(model: nn.Module, wanted: nn.Module) -> tuple[nn.Module, str]:
    return next((p, name) for p in model.modules() for name, child in p.named_children() if child is wanted)
