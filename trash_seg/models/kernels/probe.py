"""Whether the kernels work on a device: each, forward and backward, against torch on the CPU."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from trash_seg.models.kernels.batch_norm import batch_norm
from trash_seg.models.kernels.depthwise import depthwise_conv2d
from trash_seg.models.kernels.excite import excite


@torch.inference_mode(False)
@torch.enable_grad()
def compare(device: torch.device) -> None:
    """Computes a small map in both ways.

    Raises:
        AssertionError: They differ.
        Exception: What Triton, its compiler or the driver raise.
    """
    shape = 2, 8, 5, 5
    values = torch.linspace(-1, 1, 2 * 8 * 5 * 5).sin().view(shape)
    weight = torch.linspace(-1, 1, 8 * 9).view(8, 1, 3, 3)
    norm = nn.BatchNorm2d(8)

    def by_torch(values: Tensor, weight: Tensor) -> Tensor:
        features = functional.silu(norm(functional.conv2d(values, weight, padding=1, groups=8)))
        return features * functional.adaptive_avg_pool2d(features, 1)

    def by_triton(values: Tensor, weight: Tensor) -> Tensor:
        mean, var, ones, zeros = (torch.full((8,), number, device=device) for number in (0.0, 1.0, 1.0, 0.0))
        num_batches = torch.zeros((), dtype=torch.int64, device=device)
        convolved = depthwise_conv2d(values, weight, stride=1, padding=(1, 1, 1, 1), dilation=1)
        features, means = batch_norm(
            convolved, ones, zeros, running_mean=mean, running_var=var, num_batches=num_batches,
            momentum=0.1, eps=norm.eps, activation="silu", has_means=True,
        )  # fmt: skip
        assert means is not None
        return excite(features, means)

    expected = _with_gradients(by_torch, values, weight)
    placed = values.to(device, memory_format=torch.channels_last), weight.to(device)
    for found, target in zip(_with_gradients(by_triton, *placed), expected, strict=True):
        torch.testing.assert_close(found.cpu(), target, rtol=1e-3, atol=1e-4)


def _with_gradients(function: Callable[[Tensor, Tensor], Tensor], *given: Tensor) -> list[Tensor]:
    inputs = [value.clone().requires_grad_() for value in given]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), inputs)]
