"""Resampling as matrix products: on CUDA, torch's own backward passes add by atomics, in an order that varies.

Bilinear interpolation and adaptive pooling are linear and separable: out = A · image · Bᵀ. Products have a fixed order
of sums, and their backward pass is a product again.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ExactResampling(TorchFunctionMode):
    """Within it, bilinear `F.interpolate` and `F.adaptive_avg_pool2d` of images are matrix products."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.interpolate and kwargs.get("mode", "nearest") == "bilinear":
            return interpolate(*args, **kwargs)
        if function is F.adaptive_avg_pool2d:
            return adaptive_avg_pool(*args, **kwargs)
        return function(*args, **kwargs)


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "bilinear",
    align_corners: bool | None = None,
    **others: Any,
) -> Tensor:
    """`F.interpolate(mode="bilinear")` of (N, C, H, W)."""
    assert mode == "bilinear" and not any(others.values()), others
    scales: tuple[Any, Any] = (None, None) if size is not None else _pair(scale_factor)
    lengths = _pair(size) if size is not None else [int(i * s) for i, s in zip(input.shape[2:], scales, strict=True)]
    matrices = [
        _bilinear_matrix(length, out, bool(align_corners), scale, input.device)
        for length, out, scale in zip(input.shape[2:], lengths, scales, strict=True)
    ]
    return _apply(input, *matrices)


def adaptive_avg_pool(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """`F.adaptive_avg_pool2d` of (N, C, H, W)."""
    lengths = [length if out is None else out for length, out in zip(input.shape[2:], _pair(output_size), strict=True)]
    if lengths == [1, 1]:  # a mean, which torch sums in a fixed order
        return input.mean((2, 3), keepdim=True)
    matrices = [_pooling_matrix(i, o, input.device) for i, o in zip(input.shape[2:], lengths, strict=True)]
    return _apply(input, *matrices)


def _apply(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    with torch.autocast(image.device.type, enabled=False):
        resampled: Tensor = rows @ image.float() @ columns.T
    return resampled.to(image.dtype)


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, Sequence) else (value, value)


@cache
def _bilinear_matrix(length: int, out: int, align_corners: bool, scale: float | None, device: torch.device) -> Tensor:
    """(out, length) float32: the weights of each source pixel in each result."""
    place = torch.arange(out, dtype=torch.float64)
    if align_corners:
        source = place * ((length - 1) / (out - 1)) if out > 1 else torch.zeros(out, dtype=torch.float64)
    else:
        source = ((place + 0.5) * (length / out if scale is None else 1 / scale) - 0.5).clamp_min(0)
    low = source.long().clamp_max(length - 1)
    high, share = (low + 1).clamp_max(length - 1), source - low
    matrix = torch.zeros(out, length, dtype=torch.float64)
    matrix[range(out), low] += 1 - share
    matrix[range(out), high] += share
    return matrix.float().to(device)


@cache
def _pooling_matrix(length: int, out: int, device: torch.device) -> Tensor:
    """(out, length) float32: row i averages the pixels from ⌊i · length / out⌋ to ⌈(i + 1) · length / out⌉."""
    matrix = torch.zeros(out, length)
    for i in range(out):
        first, last = i * length // out, -(-(i + 1) * length // out)
        matrix[i, first:last] = 1 / (last - first)
    return matrix.to(device)
