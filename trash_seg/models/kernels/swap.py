"""The modules of a network that these kernels compute."""

from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from segmentation_models_pytorch.encoders._efficientnet import Conv2dStaticSamePadding, MBConvBlock
from torch import Tensor, nn
from torch.nn import functional

from trash_seg.models.kernels.batch_norm import TritonBatchNorm2d
from trash_seg.models.kernels.depthwise import TritonDepthwiseConv2d
from trash_seg.models.kernels.excite import excite


class _AppliedReLU(nn.ReLU):
    """One that the BatchNorm before it has applied; encoders look for a ReLU to tell where a feature ends."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class _AppliedSiLU(nn.SiLU):
    def forward(self, input: Tensor) -> Tensor:
        return input


KINDS: dict[type[nn.Module], tuple[str, type[nn.Module]]] = {
    nn.ReLU: ("relu", _AppliedReLU),
    nn.SiLU: ("silu", _AppliedSiLU),
}
"""Activations that a BatchNorm can apply, and what they become then."""


class TritonMBConvBlock(MBConvBlock):  # type: ignore[misc]  # SMP has no types
    """An EfficientNet's block, whose BatchNorms apply the activations."""

    def forward(self, inputs: Tensor, drop_connect_rate: float | None = None) -> Any:  # noqa: D102 - the class says it
        features = self._bn0(self._expand_conv(inputs))
        features = self._depthwise_conv(features)
        if self._has_se:
            features, squeezed = self._bn1.with_means(features)
            gates = _linear(self._se_expand, self._swish(_linear(self._se_reduce, squeezed)))
            features = excite(features, torch.sigmoid(gates))
        else:
            features = self._bn1(features)
        features = self._bn2(self._project_conv(features))
        if self._has_drop_connect:
            if drop_connect_rate and self.training:
                features = features * _kept(features, drop_connect_rate)
            features = features + inputs
        return features


def _linear(conv: nn.Conv2d, features: Tensor) -> Tensor:
    """A 1×1 convolution of one pixel, whose bias takes no launch of its own."""
    return functional.linear(features.flatten(1), conv.weight.flatten(1), conv.bias)[:, :, None, None]


def _kept(features: Tensor, drop_connect_rate: float) -> Tensor:
    """(N, 1, 1, 1), 0 for images that skip the block, else what makes up for those; drawn as SMP does."""
    share = 1 - drop_connect_rate
    drawn = torch.rand([len(features), 1, 1, 1], dtype=features.dtype, device=features.device)
    return torch.floor(share + drawn) / share


def swap_modules(model: nn.Module) -> None:
    """Turns BatchNorms, depthwise convolutions and an EfficientNet's blocks into those that use the kernels."""
    module: Any
    for module in model.modules():
        if type(module) in (nn.Conv2d, Conv2dStaticSamePadding) and TritonDepthwiseConv2d.takes(module):
            module.__class__ = TritonDepthwiseConv2d
        if type(module) is nn.BatchNorm2d and TritonBatchNorm2d.takes(module):
            module.__class__ = TritonBatchNorm2d
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for module in model.modules():
        if type(module).forward is nn.Sequential.forward:  # what comes between its layers cannot be known of others
            _join_activations(module, places)
        if type(module) is MBConvBlock:
            _join_swish(module)


def _join_swish(block: Any) -> None:
    norms = [norm for norm in (block._bn0, block._bn1) if not isinstance(norm, nn.Identity)]
    if all(isinstance(norm, TritonBatchNorm2d) for norm in norms):
        block.__class__ = TritonMBConvBlock
        for norm in norms:
            norm.activation = "silu"


def _join_activations(layers: nn.Sequential, places: Counter[nn.Module]) -> None:
    for index, (norm, activation) in enumerate(list(pairwise(layers))):
        if isinstance(norm, TritonBatchNorm2d) and type(activation) in KINDS and places[norm] == 1:
            norm.activation, applied = KINDS[type(activation)]
            layers[index + 1] = applied()  # in this place alone: others may share the activation
