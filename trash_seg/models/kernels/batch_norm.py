"""BatchNorm in training, with what follows it: an activation.

cuDNN's needs memory set to zero for each call, which takes a graph as long as a small map's normalisation itself, and
the counter and the activation are launches of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trash_seg.models.kernels.tiles import CHANNELS, Tile, fits

SUM_TILE, MAP_TILE = Tile(rows=128, warps=8), Tile(rows=64, warps=4)
"""Of the kernels that sum, and of those that make a map."""
MAX_PARTS = 64
"""Of the sums over pixels, a power of 2; every program of the next kernel adds them up again."""
SUM_PROGRAMS, MAP_PROGRAMS = 512, 1024
"""About: several for each of a GPU's processors."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "silu": functional.silu}

SIZES = ["rows", "channels", "chunk", "parts"]
"""Differ from layer to layer; a kernel is compiled for all of their values at once."""


@triton.jit
def _activate(value, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        value = tl.where(value <= 0.0, 0.0, value)  # unlike a maximum, leaves what is not a number
    if ACTIVATION == "silu":
        value = value * tl.sigmoid(value)
    return value


@triton.jit
def _slope(value, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        return tl.where(value <= 0.0, 0.0, 1.0)
    elif ACTIVATION == "silu":
        gate = tl.sigmoid(value)
        return gate * (1.0 + value * (1.0 - gate))
    else:
        return tl.full(value.shape, 1.0, tl.float32)


@triton.jit
def _sum_parts(sums, which, channel, is_channel, channels, parts, MAX_PARTS: tl.constexpr):
    """Of (2, parts, channels)."""
    part = tl.arange(0, MAX_PARTS)
    place = (which * parts + part)[:, None] * channels + channel[None, :]
    return tl.sum(tl.load(sums + place, mask=(part < parts)[:, None] & is_channel[None, :], other=0.0), 0)


@triton.jit(do_not_specialize=SIZES)
def _sum_values(
    input, sums, rows, channels, chunk, parts, VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Parts of the sums of values and of their squares, both less the first pixel's value, which keeps digits."""
    channels = channels // VECTOR * VECTOR
    channel, part = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.program_id(1)
    is_channel = channel < channels
    shift = tl.load(input + channel, mask=is_channel, other=0.0).to(tl.float32)
    total, squares = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    end = tl.minimum((part + 1) * chunk, rows)
    for first in range(part * chunk, end, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & is_channel[None, :]
        value = tl.load(input + row[:, None] * channels + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - shift[None, :], 0.0)
        total += value
        squares += value * value
    tl.store(sums + part * channels + channel, tl.sum(total, 0), mask=is_channel)
    tl.store(sums + (parts + part) * channels + channel, tl.sum(squares, 0), mask=is_channel)


@triton.jit(do_not_specialize=SIZES)
def _normalize(
    input, sums, weight, bias, running_mean, running_var, num_batches, statistics, output,
    rows, channels, chunk, parts, eps, momentum, ACTIVATION: tl.constexpr,
    VECTOR: tl.constexpr, MAX_PARTS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Output of input; mean and 1 / deviation to `statistics` (2, channels); running statistics and counter go on."""
    channels = channels // VECTOR * VECTOR
    channel, part = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.program_id(1)
    is_channel = channel < channels
    shift = tl.load(input + channel, mask=is_channel, other=0.0).to(tl.float32)
    offset = _sum_parts(sums, 0, channel, is_channel, channels, parts, MAX_PARTS) / rows
    variance = _sum_parts(sums, 1, channel, is_channel, channels, parts, MAX_PARTS) / rows - offset * offset
    mean, variance = shift + offset, tl.where(variance < 0.0, 0.0, variance)
    deviations = tl.rsqrt(variance + eps)
    if part == 0:
        tl.store(statistics + channel, mean, mask=is_channel)
        tl.store(statistics + channels + channel, deviations, mask=is_channel)
        before = tl.load(running_mean + channel, mask=is_channel)
        tl.store(running_mean + channel, before + momentum * (mean - before), mask=is_channel)
        before = tl.load(running_var + channel, mask=is_channel)
        unbiased = variance * (rows / (rows - 1.0))
        tl.store(running_var + channel, before + momentum * (unbiased - before), mask=is_channel)
        if tl.program_id(0) == 0:
            tl.store(num_batches, tl.load(num_batches) + 1)
    scale = deviations * tl.load(weight + channel, mask=is_channel, other=0.0)
    offset = tl.load(bias + channel, mask=is_channel, other=0.0) - mean * scale
    end = tl.minimum((part + 1) * chunk, rows)
    for first in range(part * chunk, end, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & is_channel[None, :]
        place = row[:, None] * channels + channel[None, :]
        value = tl.load(input + place, mask=mask, other=0.0).to(tl.float32)
        value = _activate(value * scale[None, :] + offset[None, :], ACTIVATION)
        tl.store(output + place, value.to(output.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _sum_gradients(
    input, grad, weight, bias, statistics, sums, rows, channels, chunk, parts, ACTIVATION: tl.constexpr,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Parts of the sums of the normalised map's gradient, and of its products with the map less mean, by deviation."""
    channels = channels // VECTOR * VECTOR
    channel, part = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.program_id(1)
    is_channel = channel < channels
    mean = tl.load(statistics + channel, mask=is_channel, other=0.0)
    deviations = tl.load(statistics + channels + channel, mask=is_channel, other=0.0)
    scale = tl.load(weight + channel, mask=is_channel, other=0.0)
    offset = tl.load(bias + channel, mask=is_channel, other=0.0)
    total, products = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    end = tl.minimum((part + 1) * chunk, rows)
    for first in range(part * chunk, end, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & is_channel[None, :]
        place = row[:, None] * channels + channel[None, :]
        value = tl.load(input + place, mask=mask, other=0.0).to(tl.float32)
        slope = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        value = (value - mean[None, :]) * deviations[None, :]
        slope *= _slope(value * scale[None, :] + offset[None, :], ACTIVATION)
        total += slope
        products += slope * value
    tl.store(sums + part * channels + channel, tl.sum(total, 0), mask=is_channel)
    tl.store(sums + (parts + part) * channels + channel, tl.sum(products, 0), mask=is_channel)


@triton.jit(do_not_specialize=SIZES)
def _input_gradient(
    input, grad, weight, bias, statistics, sums, grad_input, grad_weight, grad_bias, rows, channels, chunk, parts,
    ACTIVATION: tl.constexpr, VECTOR: tl.constexpr, MAX_PARTS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channels = channels // VECTOR * VECTOR
    channel, part = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.program_id(1)
    is_channel = channel < channels
    mean = tl.load(statistics + channel, mask=is_channel, other=0.0)
    deviations = tl.load(statistics + channels + channel, mask=is_channel, other=0.0)
    scale = tl.load(weight + channel, mask=is_channel, other=0.0)
    offset = tl.load(bias + channel, mask=is_channel, other=0.0)
    total = _sum_parts(sums, 0, channel, is_channel, channels, parts, MAX_PARTS)
    products = _sum_parts(sums, 1, channel, is_channel, channels, parts, MAX_PARTS)
    if part == 0:
        tl.store(grad_bias + channel, total, mask=is_channel)
        tl.store(grad_weight + channel, products, mask=is_channel)
    total, products = total / rows, products / rows
    end = tl.minimum((part + 1) * chunk, rows)
    for first in range(part * chunk, end, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & is_channel[None, :]
        place = row[:, None] * channels + channel[None, :]
        value = tl.load(input + place, mask=mask, other=0.0).to(tl.float32)
        slope = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        value = (value - mean[None, :]) * deviations[None, :]
        slope *= _slope(value * scale[None, :] + offset[None, :], ACTIVATION)
        slope = (slope - total[None, :] - value * products[None, :]) * (scale * deviations)[None, :]
        tl.store(grad_input + place, slope.to(grad_input.dtype.element_ty), mask=mask)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor,
        num_batches: Tensor, momentum: float, eps: float, activation: str,
    ) -> Tensor:  # fmt: skip
        rows, channels = input.numel() // input.shape[1], input.shape[1]
        blocks = triton.cdiv(channels, CHANNELS)
        chunk = SUM_TILE.cut(rows, min(SUM_PROGRAMS // blocks, MAX_PARTS))
        parts = triton.cdiv(rows, chunk)
        ctx.sum_grid, ctx.sum_sizes = (blocks, parts), (rows, channels, chunk, parts)
        chunk = MAP_TILE.cut(rows, MAP_PROGRAMS // blocks)
        ctx.map_grid, ctx.map_sizes = (blocks, triton.cdiv(rows, chunk)), (rows, channels, chunk, parts)
        ctx.activation = activation
        sums, statistics = (weight.new_empty(2, num, channels, dtype=torch.float32) for num in (parts, 1))
        output = torch.empty_like(input)
        _sum_values[ctx.sum_grid](input, sums, *ctx.sum_sizes, **SUM_TILE.form(channels))
        _normalize[ctx.map_grid](
            input, sums, weight, bias, running_mean, running_var, num_batches, statistics, output,
            *ctx.map_sizes, eps, momentum, ACTIVATION=activation, MAX_PARTS=MAX_PARTS, **MAP_TILE.form(channels),
        )  # fmt: skip
        ctx.save_for_backward(input, weight, bias, statistics)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, statistics = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        channels = len(weight)
        sums = statistics.new_empty(2, ctx.sum_grid[1], channels)
        given = input, grad, weight, bias, statistics, sums
        _sum_gradients[ctx.sum_grid](*given, *ctx.sum_sizes, ACTIVATION=ctx.activation, **SUM_TILE.form(channels))
        gradients = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(bias)
        _input_gradient[ctx.map_grid](
            *given, *gradients, *ctx.map_sizes,
            ACTIVATION=ctx.activation, MAX_PARTS=MAX_PARTS, **MAP_TILE.form(channels),
        )  # fmt: skip
        return *gradients, *(None,) * 6


def batch_norm(
    input: Tensor, weight: Tensor, bias: Tensor, *, running_mean: Tensor, running_var: Tensor, num_batches: Tensor,
    momentum: float, eps: float, activation: str = "",
) -> Tensor:  # fmt: skip
    """BatchNorm of a batch by its own statistics, which the running ones move towards, and an activation.

    Args:
        input: (N, C, H, W) that `fits`, with more than one value a channel.
        weight: (C,) float32, likewise bias and running statistics.
        bias: Added.
        running_mean: Changed in place, as are the two below.
        running_var: Of samples: by one less than there are values.
        num_batches: A scalar int64, counted up.
        momentum: What share of the way the running statistics go.
        eps: Added to the variance.
        activation: relu, silu or none ("").

    Returns:
        (N, C, H, W) of the input's dtype, channels_last.
    """
    output: Tensor = _BatchNorm.apply(
        input, weight, bias, running_mean, running_var, num_batches, momentum, eps, activation
    )
    return output


class KernelBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm by these kernels while it trains, with the activation that follows it."""

    activation = ""
    """relu, silu or none, also in evaluation."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        if not self.training or not fits(input) or input.numel() == input.shape[1]:  # which torch refuses
            output = super().forward(input)
            return ACTIVATIONS[self.activation](output) if self.activation else output
        running: Any = {"running_mean": self.running_mean, "running_var": self.running_var}
        return batch_norm(
            input, self.weight, self.bias, **running, num_batches=self.num_batches_tracked,  # type: ignore[arg-type]
            momentum=self.momentum, eps=self.eps, activation=self.activation,  # type: ignore[arg-type]
        )  # fmt: skip

    @staticmethod
    def takes(norm: nn.BatchNorm2d) -> bool:
        """Whether these kernels compute such a one: with weights, and statistics that move by a constant share."""
        return norm.affine and norm.track_running_stats and norm.momentum is not None
