"""What a network computes in, and whether a device can."""

import platform
from contextlib import AbstractContextManager, nullcontext

import torch

from trash_seg.config import TrainingConfig
from trash_seg.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By `training.precision`."""


def autocast(training: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Within it, operations that gain by it compute in the run's precision."""
    if training.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[training.precision])


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
