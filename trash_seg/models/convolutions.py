"""Convolutions that compute the same of the same weights in another way, where a device is slow at its own.

Each is a kind of `nn.Conv2d` that such a one can be turned into; results differ in rounding only.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

ALIGNMENT = 8
"""Channels; tensor cores take half-precision matrices in multiples of it, and others by far slower ways."""


def upsampling_kernel(weight: Tensor) -> Tensor:
    """Of the transposed convolution (stride 2, padding 1) that equals nearest ×2 upsampling, then a 3×3 convolution.

    Each result meets 2×2 pixels instead of 3×3, some of which were copies of each other.

    Args:
        weight: (C_out, C_in, 3, 3), of the convolution with padding 1.

    Returns:
        (C_in, C_out, 4, 4).
    """
    for axis in (2, 3):
        first, second, third = weight.unbind(axis)
        weight = torch.stack((third, second + third, first + second, first), axis)
    return weight.transpose(0, 1)


class UpsamplingConv2d(nn.Conv2d):
    """A 3×3 convolution that can also upsample its input, and join another to it, without making the joined map."""

    kernel: Tensor | None = None
    """What `fix` has computed."""

    def forward(self, input: Tensor, other: Tensor | None = None, *, upsample: bool = False) -> Tensor:
        """The convolution of `input`; with `upsample` that of `cat([nearest ×2 of input, other], 1)`."""
        if not upsample:
            return super().forward(input)
        num = input.shape[1]
        kernel = upsampling_kernel(self.weight[:, :num]) if self.kernel is None else self.kernel[:num]
        joined = functional.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)
        if other is not None and other.shape[1]:
            joined = joined + functional.conv2d(other, self.weight[:, num:], padding=1)
        return joined

    def fix(self) -> None:
        """For weights that change no more."""
        self.kernel = upsampling_kernel(self.weight.detach())


class TrimmedConv2d(nn.Conv2d):
    """A dilated 3×3 convolution, whose outer weights meet nothing but padding where the input is small."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        if min(self.dilation) < max(input.shape[2:]):
            return super().forward(input)
        return functional.conv2d(input, self.weight[:, :, 1:2, 1:2], self.bias, groups=self.groups)


class ShiftedConv2d(nn.Conv2d):
    """A dilated depthwise 3×3 convolution as a sum of shifted products, one for each weight that meets a pixel.

    Many times faster than oneDNN, which has a slow reference implementation alone for gradients, and for dilation
    above 4; faster than cuDNN where the outer weights meet less than half of the pixels.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        if input.device.type != "cpu" and 2 * min(self.dilation) <= max(input.shape[2:]):
            return super().forward(input)
        return biased(_ShiftedProducts.apply(input, self.weight, self.dilation), self.bias)


class AlignedConv2d(nn.Conv2d):
    """A convolution whose results in half precision are made in multiples of `ALIGNMENT`; the rest is cut off."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        if not torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        missing = -self.out_channels % ALIGNMENT
        weight = functional.pad(self.weight, (0, 0) * 3 + (0, missing))
        bias = None if self.bias is None else functional.pad(self.bias, (0, missing))
        aligned: Tensor = self._conv_forward(input, weight, bias)
        return aligned[:, : self.out_channels]


class _ShiftedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.dilation = dilation
        if max(dilation) > 4:
            return _shifted_products(input, weight, dilation)
        return functional.conv2d(input, weight, padding=dilation, dilation=dilation, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        input, weight = ctx.saved_tensors
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_input = _shifted_products(grad, weight.flip(2, 3), ctx.dilation).to(input.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for row, column, there, here in _overlaps(input, ctx.dilation):
                grad_weight[:, 0, row, column] = (input[there] * grad[here]).sum((0, 2, 3))
        return grad_input, grad_weight, None


def _shifted_products(input: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    summed = input * weight[:, :, 1:2, 1:2].squeeze(1)
    for row, column, there, here in _overlaps(input, dilation):
        if (row, column) != (1, 1):
            summed[here].addcmul_(input[there], weight[:, 0, row, column, None, None])
    return summed


def _overlaps(input: Tensor, dilation: tuple[int, int]) -> Iterator[tuple[int, int, tuple[Any, ...], tuple[Any, ...]]]:
    """Row and column of each weight that meets pixels, these pixels, and those that it adds to."""
    for row, column in itertools.product(range(3), repeat=2):
        shifts = ((row - 1) * dilation[0], (column - 1) * dilation[1])
        sides = list(zip(shifts, input.shape[2:], strict=True))
        if all(abs(shift) < size for shift, size in sides):
            there = [slice(max(shift, 0), size + min(shift, 0)) for shift, size in sides]
            here = [slice(max(-shift, 0), size + min(-shift, 0)) for shift, size in sides]
            yield row, column, (..., *there), (..., *here)


def biased(output: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, H, W) and what is added to each channel."""
    return output if bias is None else output + bias.to(output.dtype)[:, None, None]


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each channel is convolved by itself."""
    return conv.groups == conv.in_channels == conv.out_channels


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution whose gradients leave out what oneDNN has generic implementations alone for.

    These take 10 to 100 times as long as those for depthwise convolutions. They serve the gradient of weights wider
    than 3, in every precision, and that of a strided convolution's input in bf16.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        return biased(_Depthwise.apply(input, self.weight, self.stride, self.padding), self.bias)


class PaddingDepthwiseConv2d(DepthwiseConv2d):
    """One of an EfficientNet that pads one side more than the other."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        padding: Any = self.static_padding
        return super().forward(padding(input))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(input, weight, stride=stride, padding=padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        input, weight = ctx.saved_tensors
        grad_input = grad_weight = None
        placed = input.to(grad.dtype), weight.to(grad.dtype), ctx.stride, ctx.padding
        if ctx.needs_input_grad[0]:
            is_slow = grad.dtype == torch.bfloat16 and max(ctx.stride) > 1
            gradients = _spread_gradients(grad, *placed) if is_slow else _gradients(grad, *placed, of=0)
            grad_input = gradients.to(input.dtype)
        if ctx.needs_input_grad[1]:
            is_slow = weight.shape[3] > 3
            gradients = _column_gradients(grad, *placed) if is_slow else _gradients(grad, *placed, of=1)
            grad_weight = gradients.to(weight.dtype)
        return grad_input, grad_weight, None, None


def _spread_gradients(
    grad: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Of the input: the gradient with zeros between its pixels, in a convolution of stride 1."""
    taps = weight.shape[2:]
    height, width = (size + 2 * pad - tap + 1 for size, pad, tap in zip(input.shape[2:], padding, taps, strict=True))
    spread = grad.new_zeros(len(grad), height, width, len(weight)).permute(0, 3, 1, 2)
    spread[:, :, :: stride[0], :: stride[1]] = grad
    around = [tap - 1 - pad for tap, pad in zip(taps, padding, strict=True)]
    return functional.conv2d(spread, weight.flip(2, 3), padding=around, groups=len(weight))


def _column_gradients(
    grad: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Of at most three columns of the weights at a time, from the columns of the input that these meet."""
    blocks = []
    for first in range(0, weight.shape[3], 3):
        columns = weight[..., first : first + 3]
        left = padding[1] - first
        right = stride[1] * (grad.shape[3] - 1) + columns.shape[3] - left - input.shape[3]
        met = functional.pad(input, (left, right))
        blocks.append(_gradients(grad, met, columns, stride, (padding[0], 0), of=1))
    return torch.cat(blocks, 3)


def _gradients(
    grad: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], *, of: int
) -> Tensor:
    asked = [of == 0, of == 1, False]
    result: Tensor = torch.ops.aten.convolution_backward(
        grad, input, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), asked
    )[of]
    return result
