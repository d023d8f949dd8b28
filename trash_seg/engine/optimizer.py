"""torch's optimizers by name, in the form that suits the device."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trash_seg.config import OptimizerConfig
from trash_seg.errors import ConfigError, is_out_of_memory


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], *, device: torch.device
) -> torch.optim.Optimizer:
    """`torch.optim.<name>` over the weights: fused, and on CUDA with its state on the device, where it has such a form.

    Fused, Adam takes a half to a fifth of the time on a CPU.

    Raises:
        ConfigError: torch has no such optimizer, or it refuses an option.
    """
    optimizer = getattr(torch.optim, config.name, None)
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise ConfigError(f"optimizer.name={config.name}: torch.optim has no such optimizer")
    given: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, **config.options}
    if not {"foreach", "differentiable"} & config.options.keys():
        forms = ("capturable", "fused") if device.type == "cuda" else ("fused",)
        taken = {form: True for form in forms if form in inspect.signature(optimizer).parameters}
        lr = torch.tensor(config.lr, device=device) if taken and device.type == "cuda" else config.lr  # for a graph
        given = {**taken, **given, "lr": lr}
    try:
        return optimizer(parameters, **given)
    except (TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"optimizer.options={config.options}: {config.name} refuses them ({error})") from error


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Begins SGD's momentum with zeros, for steps that a loss scale may skip.

    Of a first step that is skipped torch keeps, as momentum, what the memory happens to hold.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for weight in group["params"] if group["momentum"] and not group["dampening"] else ():
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate, in place where it lies on the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
