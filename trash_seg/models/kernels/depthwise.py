"""Depthwise convolutions.

cuDNN compiles its own for half precision as it meets each shape, which takes seconds in every process.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trash_seg.models.convolutions import biased, is_depthwise
from trash_seg.models.kernels.tiles import CHANNELS, Tile, fits, load, own_channels

TAP_TILE, PIXEL_TILE = Tile(rows=64, warps=4), Tile(rows=64, warps=4)
"""Of the kernel that sums over taps, and of that which sums over pixels."""
NUM_PROGRAMS = 2048
"""Of the weights' gradient, about: several for each of a GPU's processors."""
MAX_TAPS = 7
"""In a row of weights, whose loop is unrolled."""

SIZES = ["num", "height", "width", "channels", "source_height", "source_width", "top", "left", "dilation"]
"""Differ from layer to layer; a kernel is compiled for all of their values at once."""


@triton.jit(do_not_specialize=SIZES)
def _sum_taps(
    source, weight, target, num, height, width, channels, source_height, source_width, top, left, dilation,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, OF_INPUT: tl.constexpr,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Results (num, height, width, channels) of a source (num, source_height, source_width, channels).

    The weights are (TAPS, TAPS, channels). OF_INPUT: the source is the gradient of the result, the target that of the
    input.
    """
    channels = channels // VECTOR * VECTOR
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image, y, x = pixel // (height * width), pixel // width % height, pixel % width
    is_pixel, is_channel = pixel < num * height * width, channel < channels
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for row in range(TAPS):  # not unrolled: half of the registers, and compiled in a quarter of the time
        for column in tl.static_range(TAPS):
            if OF_INPUT:
                source_y, source_x = y + top - row * dilation, x + left - column * dilation
                meets = is_pixel & (source_y >= 0) & (source_x >= 0)
                if STRIDE > 1:
                    meets &= (source_y % STRIDE == 0) & (source_x % STRIDE == 0)
                    source_y, source_x = source_y // STRIDE, source_x // STRIDE
            else:
                source_y, source_x = y * STRIDE - top + row * dilation, x * STRIDE - left + column * dilation
                meets = is_pixel & (source_y >= 0) & (source_x >= 0)
            meets &= (source_y < source_height) & (source_x < source_width)
            place = ((image * source_height + source_y) * source_width + source_x) * channels
            mask = meets[:, None] & is_channel[None, :]
            factor = load(weight, (row * TAPS + column) * channels + channel, is_channel)
            value = load(source, place[:, None] + channel[None, :], mask)
            total += value * factor[None, :]
    place = pixel[:, None] * channels + channel[None, :]
    tl.store(target + place, total.to(target.dtype.element_ty), mask=is_pixel[:, None] & is_channel[None, :])


@triton.jit(do_not_specialize=[*SIZES, "chunk"])
def _sum_pixels(
    source, grad, sums, num, height, width, channels, source_height, source_width, top, left, dilation, chunk,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums (programs, TAPS, TAPS, channels) of the weights' gradient, each of `chunk` pixels of the result's.

    A program computes a row of the taps.
    """
    channels, channel, is_channel = own_channels(channels, VECTOR, CHANNELS)
    row, part = tl.program_id(1), tl.program_id(2)
    totals = ()
    for _ in tl.static_range(TAPS):
        totals = totals + (tl.zeros((ROWS, CHANNELS), tl.float32),)  # type: ignore[assignment]
    end = tl.minimum((part + 1) * chunk, num * height * width)
    for first in range(part * chunk, end, ROWS):
        pixel = first + tl.arange(0, ROWS)
        image, y, x = pixel // (height * width), pixel // width % height, pixel % width
        source_y = y * STRIDE - top + row * dilation
        meets = (pixel < end) & (source_y >= 0) & (source_y < source_height)
        mask = meets[:, None] & is_channel[None, :]
        factor = load(grad, pixel[:, None] * channels + channel[None, :], mask)
        added = ()
        for column in tl.static_range(TAPS):
            source_x = x * STRIDE - left + column * dilation
            inside = meets & (source_x >= 0) & (source_x < source_width)
            place = ((image * source_height + source_y) * source_width + source_x) * channels
            mask = inside[:, None] & is_channel[None, :]
            value = load(source, place[:, None] + channel[None, :], mask)
            added = added + (totals[column] + value * factor,)  # type: ignore[assignment]
        totals = added
    for column in tl.static_range(TAPS):
        place = ((part * TAPS + row) * TAPS + column) * channels + channel
        tl.store(sums + place, tl.sum(totals[column], 0), mask=is_channel)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int], dilation: int
    ) -> Tensor:
        top, bottom, left, right = padding
        num, channels, height, width = input.shape
        taps = weight.shape[2]
        extent = dilation * (taps - 1) + 1
        size = [(height + top + bottom - extent) // stride + 1, (width + left + right - extent) // stride + 1]
        output = input.new_empty(num, *size, channels).permute(0, 3, 1, 2)
        factors = weight.flatten(1).t().contiguous()
        ctx.place, ctx.shape = (top, left, dilation), weight.shape
        ctx.form = {"TAPS": taps, "STRIDE": stride}
        _sum_taps[_grid(output)](
            input, factors, output, num, *size, channels, height, width, *ctx.place,
            OF_INPUT=False, **ctx.form, **TAP_TILE.form(channels),
        )  # fmt: skip
        ctx.save_for_backward(input, factors)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        input, factors = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        num, channels, *size = input.shape
        grad_size = grad.shape[2:]
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_input = torch.empty_like(input)
            _sum_taps[_grid(grad_input)](
                grad, factors, grad_input, num, *size, channels, *grad_size, *ctx.place,
                OF_INPUT=True, **ctx.form, **TAP_TILE.form(channels),
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            blocks, taps, pixels = triton.cdiv(channels, CHANNELS), ctx.form["TAPS"], num * grad_size.numel()
            chunk = PIXEL_TILE.cut(pixels, NUM_PROGRAMS // (blocks * taps))
            sums = factors.new_empty(triton.cdiv(pixels, chunk), taps * taps, channels, dtype=torch.float32)
            _sum_pixels[blocks, taps, len(sums)](
                input, grad, sums, num, *grad_size, channels, *size, *ctx.place, chunk,
                **ctx.form, **PIXEL_TILE.form(channels),
            )  # fmt: skip
            grad_weight = sums.sum(0).t().reshape(ctx.shape).to(factors.dtype)
        return grad_input, grad_weight, None, None, None


def _grid(target: Tensor) -> tuple[int, int]:
    num, channels, height, width = target.shape
    return triton.cdiv(num * height * width, TAP_TILE.rows), triton.cdiv(channels, CHANNELS)


def depthwise_conv2d(
    input: Tensor, weight: Tensor, *, stride: int, padding: tuple[int, int, int, int], dilation: int
) -> Tensor:
    """A depthwise convolution with zeros around the map.

    Args:
        input: (N, C, H, W) that `fits`.
        weight: (C, 1, K, K) float32.
        stride: In both directions, px.
        padding: Pixels above, below, to the left and to the right.
        dilation: Pixels from tap to tap.

    Returns:
        (N, C, H', W') of the input's dtype, channels_last.
    """
    output: Tensor = _Depthwise.apply(input, weight, stride, padding, dilation)
    return output


class TritonDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution by these kernels, in the precision that holds where it is called."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        own: Any = getattr(self, "static_padding", None)  # an EfficientNet's
        if not fits(input):
            return super().forward(input if own is None else own(input))
        padding: Any = self.padding
        rows, columns = padding
        left, right, top, bottom = own.padding if isinstance(own, nn.ZeroPad2d) else (columns, columns, rows, rows)
        output = depthwise_conv2d(
            input, self.weight, stride=self.stride[0], padding=(top, bottom, left, right), dilation=self.dilation[0]
        )
        return biased(output, self.bias)

    @staticmethod
    def takes(conv: nn.Conv2d) -> bool:
        """Whether these kernels compute such a one: depthwise, the same in both directions, zeros around the map."""
        in_form = is_depthwise(conv) and conv.padding_mode == "zeros" and conv.weight.dtype == torch.float32
        if not in_form or isinstance(conv.padding, str):
            return False
        square = all(len(set(sizes)) == 1 for sizes in (conv.kernel_size, conv.stride, conv.dilation))
        return square and conv.kernel_size[0] <= MAX_TAPS
