"""Squeeze-and-excitation's product of a map and its gates, and both gradients in one pass over the map.

torch takes four: two products, and a sum that is slow over pixels and needs memory set to zero.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from trash_seg.models.kernels.tiles import CHANNELS, Tile, fits, load, own_channels, pixels_at

TILE = Tile(rows=64, warps=4)
NUM_PROGRAMS = 1024
"""About: several for each of a GPU's processors."""

SIZES = ["rows", "channels", "chunk"]
"""Differ from layer to layer; a kernel is compiled for all of their values at once."""


@triton.jit(do_not_specialize=SIZES)
def _scale(
    input, gates, output, rows, channels, chunk, VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Of maps (images, rows, channels); a program takes `chunk` rows of one image."""
    channels, channel, is_channel = own_channels(channels, VECTOR, CHANNELS)
    part, image = tl.program_id(1), tl.program_id(2)
    gate = load(gates, image * channels + channel, is_channel)
    end = tl.minimum((part + 1) * chunk, rows)
    for first in range(part * chunk, end, ROWS):
        place, mask = pixels_at(first, end, image * rows, channels, channel, ROWS)
        value = load(input, place, mask) * gate[None, :]
        tl.store(output + place, value.to(output.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _scale_gradients(
    input, gates, grad, grad_input, sums, rows, channels, chunk,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The input's gradient, and parts (images, programs, channels) of the gates'."""
    channels, channel, is_channel = own_channels(channels, VECTOR, CHANNELS)
    part, image = tl.program_id(1), tl.program_id(2)
    gate = load(gates, image * channels + channel, is_channel)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    end = tl.minimum((part + 1) * chunk, rows)
    for first in range(part * chunk, end, ROWS):
        place, mask = pixels_at(first, end, image * rows, channels, channel, ROWS)
        gradient = load(grad, place, mask)
        total += gradient * load(input, place, mask)
        tl.store(grad_input + place, (gradient * gate[None, :]).to(grad_input.dtype.element_ty), mask=mask)
    tl.store(sums + (image * tl.num_programs(1) + part) * channels + channel, tl.sum(total, 0), mask=is_channel)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, gates: Tensor) -> Tensor:
        images, channels, height, width = input.shape
        rows, blocks = height * width, triton.cdiv(channels, CHANNELS)
        chunk = TILE.cut(rows, NUM_PROGRAMS // (blocks * images))
        ctx.grid, ctx.sizes = (blocks, triton.cdiv(rows, chunk), images), (rows, channels, chunk)
        ctx.form = TILE.form(channels)
        output = torch.empty_like(input)
        _scale[ctx.grid](input, gates, output, *ctx.sizes, **ctx.form)
        ctx.save_for_backward(input, gates)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        input, gates = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_input = torch.empty_like(input)
        sums = input.new_empty(len(input), ctx.grid[1], input.shape[1], dtype=torch.float32)
        _scale_gradients[ctx.grid](input, gates, grad, grad_input, sums, *ctx.sizes, **ctx.form)
        return grad_input, sums.sum(1).to(gates.dtype).view_as(gates)


def excite(input: Tensor, gates: Tensor) -> Tensor:
    """The product of a map (N, C, H, W) and its gates (N, C, 1, 1), in the map's dtype and memory order."""
    if not fits(input):
        return input * gates
    output: Tensor = _Scale.apply(input, gates.contiguous())
    return output
