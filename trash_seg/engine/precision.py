"""What a network computes in, and whether a device can."""

import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trash_seg.config import TrainingConfig
from trash_seg.errors import ConfigError
from trash_seg.models.convolutions import AlignedConv2d, TrimmedConv2d

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By `training.precision`."""


def autocast(training: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Within it, operations that gain by it compute in the run's precision."""
    if training.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[training.precision])


CAST_WHOLE = (nn.Conv2d, nn.Linear, AlignedConv2d, TrimmedConv2d)
"""Layers whose weights autocast casts as they are. These types alone: a subclass may use its weights otherwise."""


def cast_weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of most layers by name, as autocast would cast them, for `torch.func.functional_call`.

    All are float32. Autocast casts one by one, and the gradients again: hundreds of launches a step. Here they are a
    few in all.
    """
    names: dict[nn.Parameter, str] = {}
    for place, module in model.named_modules():
        if type(module) in CAST_WHOLE:
            for name, weight in module.named_parameters(place, recurse=False):
                names.setdefault(weight, name)  # `functional_call` finds others of the same
    return dict(zip(names.values(), _Cast.apply(dtype, *names), strict=True))


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(_copied(weights, dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        copies = iter(_copied([grad for grad in grads if grad is not None], torch.float32))
        return None, *(None if grad is None else next(copies) for grad in grads)


def _copied(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses what a device cannot do, or could only emulate at a fraction of fp32's speed.

    Raises:
        ConfigError: fp16 on a CPU, or bf16 on a CPU or GPU without instructions for it.
    """
    if precision == "fp32":
        return
    if device.type == "cuda":
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError("training.precision=bf16: this GPU has no bf16 instructions; use fp16 or fp32")
        return
    if precision == "fp16":
        raise ConfigError("training.precision=fp16: needs a CUDA device; on a CPU use fp32")
    if not has_bf16():
        rule = "this processor has no bf16 instructions, and emulates them several times slower than fp32"
        raise ConfigError(f"training.precision=bf16: {rule}; use fp32")


def has_bf16() -> bool:
    """Whether this CPU computes in bf16. What oneDNN says of x86 includes what it can emulate."""
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
