"""BatchNorm in training, with what follows it: an activation, and the mean over pixels that gates are made of.

cuDNN's needs memory set to zero for each call, which takes a graph as long as a small map's normalisation itself; the
counter, the activation and the mean are launches of their own, and the mean's gradient is two passes over the map.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trash_seg.models.kernels.tiles import CHANNELS, Tile, fits, load, own_channels, pixels_at

SUM_TILE, MAP_TILE = Tile(rows=128, warps=8), Tile(rows=64, warps=4)
"""Of the kernels that sum, and of those that make a map."""
MAX_PARTS = 64
"""Of the sums over pixels, a power of 2; every program of the next kernel adds them up again."""
SUM_PROGRAMS, MAP_PROGRAMS = 512, 1024
"""At most, about: several for each of a GPU's processors."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "silu": functional.silu}

SIZES = ["rows", "channels", "chunk", "parts", "area", "part_rows"]
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
def _load_parts(sums, which, channel, is_channel, channels, parts, MAX_PARTS: tl.constexpr):
    """(MAX_PARTS, CHANNELS) of (2, parts, channels)."""
    part = tl.arange(0, MAX_PARTS)
    place = (which * parts + part)[:, None] * channels + channel[None, :]
    return tl.load(sums + place, mask=(part < parts)[:, None] & is_channel[None, :], other=0.0)


@triton.jit
def _output_gradient(value, grad, weight, bias, ACTIVATION: tl.constexpr):
    """Of the normalised and scaled map, before the activation."""
    return grad * _slope(value * weight[None, :] + bias[None, :], ACTIVATION)


@triton.jit(do_not_specialize=SIZES)
def _sum_values(
    input, sums, rows, channels, chunk, parts, VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean and sum of squared distances from it, of each part: (2, parts, channels).

    Summed are distances from the mean of the part's first pixels, which keeps digits.
    """
    channels, channel, is_channel = own_channels(channels, VECTOR, CHANNELS)
    part = tl.program_id(1)
    begin, end = part * chunk, tl.minimum((part + 1) * chunk, rows)
    place, mask = pixels_at(begin, end, 0, channels, channel, ROWS)
    shift = tl.sum(load(input, place, mask), 0) / tl.minimum(end - begin, ROWS)
    total, squares = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(begin, end, ROWS):
        place, mask = pixels_at(first, end, 0, channels, channel, ROWS)
        value = tl.where(mask, load(input, place, mask) - shift[None, :], 0.0)
        total += value
        squares += value * value
    distance = tl.sum(total, 0) / (end - begin)
    tl.store(sums + part * channels + channel, shift + distance, mask=is_channel)
    squared = tl.sum(squares, 0) - (end - begin) * distance * distance
    tl.store(sums + (parts + part) * channels + channel, squared, mask=is_channel)


@triton.jit(do_not_specialize=SIZES)
def _normalize(
    input, sums, weight, bias, running_mean, running_var, num_batches, statistics, output, output_means,
    rows, channels, chunk, parts, area, part_rows, eps, momentum, ACTIVATION: tl.constexpr, HAS_MEANS: tl.constexpr,
    VECTOR: tl.constexpr, MAX_PARTS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Output of input; mean and 1 / deviation to `statistics` (2, channels); running statistics and counter go on.

    A program takes `chunk` of the `area` pixels of an image; `sums` are of `part_rows` pixels each. HAS_MEANS: the
    output's sum there, by the area, goes to `output_means` (images, programs, channels).
    """
    channels, channel, is_channel = own_channels(channels, VECTOR, CHANNELS)
    part, image = tl.program_id(1), tl.program_id(2)
    means = _load_parts(sums, 0, channel, is_channel, channels, parts, MAX_PARTS)
    squares = _load_parts(sums, 1, channel, is_channel, channels, parts, MAX_PARTS)
    index = tl.arange(0, MAX_PARTS)
    counts = tl.where(index < parts, tl.minimum(rows - index * part_rows, part_rows), 0).to(tl.float32)[:, None]
    mean = tl.sum(counts * means, 0) / rows
    distances = means - mean[None, :]
    variance = tl.sum(squares + counts * distances * distances, 0) / rows
    inverse_std = tl.rsqrt(variance + eps)
    if (part == 0) & (image == 0):
        tl.store(statistics + channel, mean, mask=is_channel)
        tl.store(statistics + channels + channel, inverse_std, mask=is_channel)
        before = tl.load(running_mean + channel, mask=is_channel)
        tl.store(running_mean + channel, before + momentum * (mean - before), mask=is_channel)
        before = tl.load(running_var + channel, mask=is_channel)
        unbiased = variance * (rows / (rows - 1.0))
        tl.store(running_var + channel, before + momentum * (unbiased - before), mask=is_channel)
        if tl.program_id(0) == 0:
            tl.store(num_batches, tl.load(num_batches) + 1)
    scale = inverse_std * load(weight, channel, is_channel)
    offset = load(bias, channel, is_channel) - mean * scale
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    end = tl.minimum((part + 1) * chunk, area)
    for first in range(part * chunk, end, ROWS):
        place, mask = pixels_at(first, end, image * area, channels, channel, ROWS)
        value = load(input, place, mask)
        value = _activate(value * scale[None, :] + offset[None, :], ACTIVATION)
        tl.store(output + place, value.to(output.dtype.element_ty), mask=mask)
        if HAS_MEANS:
            total += tl.where(mask, value, 0.0)
    if HAS_MEANS:
        place = (image * tl.num_programs(1) + part) * channels + channel
        tl.store(output_means + place, tl.sum(total, 0) / area, mask=is_channel)


@triton.jit(do_not_specialize=SIZES)
def _sum_gradients(
    input, grad, grad_means, weight, bias, statistics, sums, rows, channels, chunk, parts, area,
    ACTIVATION: tl.constexpr, HAS_MEANS: tl.constexpr,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Parts of the sums of the normalised map's gradient, and of its products with the map less mean, by deviation.

    HAS_MEANS: the output's gradient is `grad` and, for each pixel, its share of `grad_means` (images, channels).
    """
    channels, channel, is_channel = own_channels(channels, VECTOR, CHANNELS)
    part = tl.program_id(1)
    mean = load(statistics, channel, is_channel)
    inverse_std = load(statistics, channels + channel, is_channel)
    weights = load(weight, channel, is_channel)
    biases = load(bias, channel, is_channel)
    total, products = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    end = tl.minimum((part + 1) * chunk, rows)
    for first in range(part * chunk, end, ROWS):
        place, mask = pixels_at(first, end, 0, channels, channel, ROWS)
        value = load(input, place, mask)
        gradient = load(grad, place, mask)
        if HAS_MEANS:
            image = (first + tl.arange(0, ROWS)) // area
            place = image[:, None] * channels + channel[None, :]
            gradient += load(grad_means, place, mask) / area
        value = (value - mean[None, :]) * inverse_std[None, :]
        gradient = _output_gradient(value, gradient, weights, biases, ACTIVATION)
        total += gradient
        products += gradient * value
    tl.store(sums + part * channels + channel, tl.sum(total, 0), mask=is_channel)
    tl.store(sums + (parts + part) * channels + channel, tl.sum(products, 0), mask=is_channel)


@triton.jit(do_not_specialize=SIZES)
def _input_gradient(
    input, grad, grad_means, weight, bias, statistics, sums, grad_input, grad_weight, grad_bias,
    rows, channels, chunk, parts, area, ACTIVATION: tl.constexpr, HAS_MEANS: tl.constexpr,
    VECTOR: tl.constexpr, MAX_PARTS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A program takes `chunk` of the `area` pixels of an image."""
    channels, channel, is_channel = own_channels(channels, VECTOR, CHANNELS)
    part, image = tl.program_id(1), tl.program_id(2)
    mean = load(statistics, channel, is_channel)
    inverse_std = load(statistics, channels + channel, is_channel)
    weights = load(weight, channel, is_channel)
    biases = load(bias, channel, is_channel)
    total = tl.sum(_load_parts(sums, 0, channel, is_channel, channels, parts, MAX_PARTS), 0)
    products = tl.sum(_load_parts(sums, 1, channel, is_channel, channels, parts, MAX_PARTS), 0)
    if (part == 0) & (image == 0):
        tl.store(grad_bias + channel, total, mask=is_channel)
        tl.store(grad_weight + channel, products, mask=is_channel)
    total, products = total / rows, products / rows
    share = tl.zeros((CHANNELS,), tl.float32)
    if HAS_MEANS:
        share = load(grad_means, image * channels + channel, is_channel) / area
    end = tl.minimum((part + 1) * chunk, area)
    for first in range(part * chunk, end, ROWS):
        place, mask = pixels_at(first, end, image * area, channels, channel, ROWS)
        value = load(input, place, mask)
        gradient = load(grad, place, mask) + share[None, :]
        value = (value - mean[None, :]) * inverse_std[None, :]
        gradient = _output_gradient(value, gradient, weights, biases, ACTIVATION)
        gradient = (gradient - total[None, :] - value * products[None, :]) * (weights * inverse_std)[None, :]
        tl.store(grad_input + place, gradient.to(grad_input.dtype.element_ty), mask=mask)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor,
        num_batches: Tensor, momentum: float, eps: float, activation: str, has_means: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        images, channels, height, width = input.shape
        area, blocks = height * width, triton.cdiv(channels, CHANNELS)
        chunk = SUM_TILE.cut(images * area, min(SUM_PROGRAMS // blocks, MAX_PARTS))
        parts = triton.cdiv(images * area, chunk)
        ctx.sum_grid, ctx.sum_sizes = (blocks, parts), (images * area, channels, chunk, parts, area)
        chunk = MAP_TILE.cut(area, MAP_PROGRAMS // (blocks * images))
        ctx.map_grid = blocks, triton.cdiv(area, chunk), images
        ctx.map_sizes = images * area, channels, chunk, parts, area
        ctx.form = {"ACTIVATION": activation, "HAS_MEANS": has_means}
        sums, statistics = (weight.new_empty(2, num, channels, dtype=torch.float32) for num in (parts, 1))
        means = weight.new_empty(images, ctx.map_grid[1], channels, dtype=torch.float32) if has_means else None
        output = torch.empty_like(input)
        _sum_values[ctx.sum_grid](input, sums, *ctx.sum_sizes[:-1], **SUM_TILE.form(channels))
        _normalize[ctx.map_grid](
            input, sums, weight, bias, running_mean, running_var, num_batches, statistics, output,
            sums if means is None else means, *ctx.map_sizes, ctx.sum_sizes[2], eps, momentum,
            MAX_PARTS=MAX_PARTS, **ctx.form, **MAP_TILE.form(channels),
        )  # fmt: skip
        ctx.save_for_backward(input, weight, bias, statistics)
        if means is None:
            return output, None
        return output, means.sum(1).to(input.dtype).view(images, channels, 1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_means: Tensor | None) -> tuple[Tensor | None, ...]:
        input, weight, bias, statistics = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_means = grad if grad_means is None else grad_means.contiguous()
        channels = len(weight)
        sums = statistics.new_empty(2, ctx.sum_grid[1], channels)
        given = input, grad, grad_means, weight, bias, statistics, sums
        _sum_gradients[ctx.sum_grid](*given, *ctx.sum_sizes, **ctx.form, **SUM_TILE.form(channels))
        gradients = torch.empty_like(input), torch.empty_like(weight), torch.empty_like(bias)
        _input_gradient[ctx.map_grid](
            *given, *gradients, *ctx.map_sizes, MAX_PARTS=MAX_PARTS, **ctx.form, **MAP_TILE.form(channels)
        )
        return *gradients, *(None,) * 7


def batch_norm(
    input: Tensor, weight: Tensor, bias: Tensor, *, running_mean: Tensor, running_var: Tensor, num_batches: Tensor,
    momentum: float, eps: float, activation: str = "", has_means: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
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
        has_means: Return the output's means over pixels as well.

    Returns:
        (N, C, H, W) of the input's dtype, channels_last; (N, C, 1, 1) of the same, or None.
    """
    result: tuple[Tensor, Tensor | None] = _BatchNorm.apply(
        input, weight, bias, running_mean, running_var, num_batches, momentum, eps, activation, has_means
    )
    return result


class TritonBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm by these kernels while it trains, with the activation that follows it."""

    activation = ""
    """relu, silu or none, also in evaluation."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102 - the class says it
        return self._normalize(input, has_means=False)[0]

    def with_means(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Also the result's means over pixels, (N, C, 1, 1)."""
        output, means = self._normalize(input, has_means=True)
        return output, functional.adaptive_avg_pool2d(output, 1) if means is None else means

    def _normalize(self, input: Tensor, *, has_means: bool) -> tuple[Tensor, Tensor | None]:
        if not self.training or not fits(input) or input.numel() <= input.shape[1]:  # which torch refuses
            output = super().forward(input)
            return ACTIVATIONS[self.activation](output) if self.activation else output, None
        running: Any = {"running_mean": self.running_mean, "running_var": self.running_var}
        return batch_norm(
            input, self.weight, self.bias, **running, num_batches=self.num_batches_tracked,  # type: ignore[arg-type]
            momentum=self.momentum, eps=self.eps,  # type: ignore[arg-type]
            activation=self.activation, has_means=has_means,
        )  # fmt: skip

    @staticmethod
    def takes(norm: nn.BatchNorm2d) -> bool:
        """Whether these kernels compute such a one: with weights, and statistics that move by a constant share."""
        in_form = norm.affine and norm.track_running_stats and norm.weight.dtype == torch.float32
        return in_form and norm.momentum is not None
