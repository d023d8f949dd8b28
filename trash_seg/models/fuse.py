"""The same function of the same weights with less arithmetic, or with arithmetic that a device does faster.

Names and shapes of the weights stay, so that files fit either form; results differ in rounding only.
"""

from typing import Any

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from segmentation_models_pytorch.decoders.unetplusplus.decoder import DecoderBlock as UnetPlusPlusBlock
from segmentation_models_pytorch.encoders._efficientnet import Conv2dStaticSamePadding
from torch import Tensor, nn

from trash_seg.models import kernels
from trash_seg.models.convolutions import (
    ALIGNMENT,
    AlignedConv2d,
    DepthwiseConv2d,
    PaddingDepthwiseConv2d,
    ShiftedConv2d,
    TrimmedConv2d,
    UpsamplingConv2d,
    is_depthwise,
)


def fuse(model: nn.Module, *, device: torch.device, triton: bool) -> None:
    """Changes the network in place: upsampling blocks of Unet and Unet++, padding, and slow kinds of layers.

    Args:
        model: The network.
        device: It is to run on; what is slow differs.
        triton: Put in Triton's kernels, on a GPU where they work. Maps must be in channels_last order.
    """
    on_cpu = device.type == "cpu"
    if triton and not on_cpu and kernels.are_usable(device):
        from trash_seg.models.kernels.swap import swap_modules  # Triton is not there on every system

        swap_modules(model)
    module: Any
    for module in model.modules():
        if type(module) in FUSED and _is_fusible(module):
            module.__class__ = FUSED[type(module)]
            module.conv1[0].__class__ = UpsamplingConv2d
        if isinstance(module, Conv2dStaticSamePadding):
            _join_padding(module, on_cpu=on_cpu)
        if type(module) is nn.Conv2d and module.dilation != (1, 1) and _is_centred(module):
            module.__class__ = ShiftedConv2d if is_depthwise(module) else TrimmedConv2d
        if on_cpu and type(module) is nn.Conv2d and _has_slow_gradients(module):
            module.__class__ = DepthwiseConv2d
        if not on_cpu and isinstance(module, SegmentationHead) and _is_misaligned(module[0]):
            module[0].__class__ = AlignedConv2d


class _FusedUnetBlock(UnetDecoderBlock):  # type: ignore[misc]  # SMP has no types
    def forward(
        self, feature_map: Tensor, target_height: int, target_width: int, skip_connection: Tensor | None = None
    ) -> Any:
        if (target_height, target_width) != (2 * feature_map.shape[2], 2 * feature_map.shape[3]):
            return super().forward(feature_map, target_height, target_width, skip_connection)
        return self.attention2(_convolve(self, feature_map, skip_connection))


class _FusedUnetPlusPlusBlock(UnetPlusPlusBlock):  # type: ignore[misc]
    def forward(self, x: Tensor, skip: Tensor | None = None) -> Any:
        return self.attention2(_convolve(self, x, skip))


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    UnetDecoderBlock: _FusedUnetBlock,
    UnetPlusPlusBlock: _FusedUnetPlusPlusBlock,
}


def _convolve(block: Any, features: Tensor, skip: Tensor | None) -> Any:
    conv, norm, activation = block.conv1
    return block.conv2(activation(norm(conv(features, skip, upsample=True))))


def _is_fusible(block: Any) -> bool:
    if block.interpolation_mode != "nearest" or block.conv1 is None:  # Unet++ has empty blocks
        return False
    return isinstance(block.attention1.attention, nn.Identity)


def _join_padding(conv: Any, *, on_cpu: bool) -> None:
    """Leaves the zeros that an EfficientNet puts around a map to the convolution, where all sides get as many."""
    if isinstance(conv.static_padding, nn.ZeroPad2d):
        left, right, top, bottom = conv.static_padding.padding
        if (left, top) != (right, bottom):
            if on_cpu and _has_slow_gradients(conv):
                conv.__class__ = PaddingDepthwiseConv2d
            return
        conv.padding, conv.static_padding = (top, left), nn.Identity()
    conv.__class__ = nn.Conv2d


def _is_centred(conv: nn.Conv2d) -> bool:
    with_zeros = conv.padding_mode == "zeros" and conv.padding == conv.dilation
    return with_zeros and conv.kernel_size == (3, 3) and conv.stride == (1, 1)


def _is_misaligned(conv: nn.Conv2d) -> bool:
    return conv.out_channels % ALIGNMENT != 0 and conv.in_channels % ALIGNMENT == 0


def _has_slow_gradients(conv: nn.Conv2d) -> bool:
    """Whether `DepthwiseConv2d` takes it: depthwise, not dilated, and wide or strided."""
    if not is_depthwise(conv) or conv.dilation != (1, 1):
        return False
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    meets_pixels = all(pad < tap for pad, tap in zip(conv.padding, conv.kernel_size, strict=True))
    return meets_pixels and (conv.kernel_size[1] > 3 or max(conv.stride) > 1)  # SMP gives lists, too
