"""Triton's kernels: on a GPU where there is one, else in Triton's interpreter, which computes the same on the CPU."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders._efficientnet import MBConvBlock
from torch import Tensor, nn
from torch.nn import functional

from trash_seg.models import kernels
from trash_seg.models.convolutions import AlignedConv2d, UpsamplingConv2d
from trash_seg.models.fuse import fuse
from trash_seg.models.kernels import probe
from trash_seg.models.kernels.batch_norm import TritonBatchNorm2d, batch_norm
from trash_seg.models.kernels.depthwise import TritonDepthwiseConv2d, depthwise_conv2d
from trash_seg.models.kernels.excite import excite
from trash_seg.models.kernels.swap import TritonMBConvBlock, swap_modules

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pytestmark = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="a GPU that torch cannot use")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3}


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = 3 * torch.randn(*shape) + 1
    return values.to(DEVICE, dtype, memory_format=torch.channels_last)


def assert_equal(
    kernel: Callable[..., Sequence[Tensor]], reference: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor],
    tolerance: float,
) -> None:  # fmt: skip
    """Results and gradients, against float64; tolerance by the largest value."""
    own = [value.clone().requires_grad_() for value in inputs]
    exact = [value.double().requires_grad_() for value in inputs]
    outputs, expected = kernel(*own), reference(*exact)
    for output in outputs:
        assert output.dtype == inputs[0].dtype
        assert output.is_contiguous(memory_format=torch.channels_last)
    slopes = [torch.randn_like(output) for output in outputs]
    found = *outputs, *torch.autograd.grad(outputs, own, slopes)
    targets = *expected, *torch.autograd.grad(expected, exact, [slope.double() for slope in slopes])
    for value, target in zip(found, targets, strict=True):
        assert (value.double() - target).abs().max() <= tolerance * target.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("shape", "taps", "stride", "padding", "dilation"),
    [
        ((2, 40, 9, 12), 3, 1, (1, 1, 1, 1), 1),
        ((2, 24, 8, 8), 3, 2, (0, 1, 0, 1), 1),  # as an EfficientNet pads
        ((1, 33, 9, 7), 5, 2, (1, 2, 1, 2), 1),
        ((1, 72, 6, 5), 5, 1, (2, 2, 2, 2), 1),
        ((2, 8, 7, 7), 3, 1, (4, 4, 4, 4), 4),
    ],
)
def test_a_depthwise_convolution(
    shape: tuple[int, ...], taps: int, stride: int, padding: tuple[int, ...], dilation: int,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    top, bottom, left, right = padding

    def kernel(input: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return [depthwise_conv2d(input, weight, stride=stride, padding=padding, dilation=dilation)]

    def reference(input: Tensor, weight: Tensor) -> Sequence[Tensor]:
        padded = functional.pad(input, (left, right, top, bottom))
        return [functional.conv2d(padded, weight, stride=stride, dilation=dilation, groups=len(weight))]

    weight = torch.randn(shape[1], 1, taps, taps, device=DEVICE)
    assert_equal(kernel, reference, [channels_last(*shape, dtype=dtype), weight], TOLERANCE[dtype])


def test_a_depthwise_convolution_computes_in_half_precision_where_autocast_says_so() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, stride=2, groups=8, device=DEVICE)
    plain.static_padding = nn.ZeroPad2d((0, 1, 0, 1))  # as an EfficientNet's
    swapped = nn.ModuleList([copy.deepcopy(plain)])
    swap_modules(swapped)
    images = channels_last(2, 8, 6, 6)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        output = swapped[0](images)
        expected = plain(plain.static_padding(images))
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    for conv, result in ((swapped[0], output), (plain, expected)):
        result.float().sum().backward()
        assert conv.weight.grad.dtype == torch.float32
    for found, weight in zip(swapped[0].parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, weight.grad, rtol=0.02, atol=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("shape", "activation", "has_means"),
    [
        ((2, 40, 9, 12), "", False),
        ((2, 33, 9, 7), "relu", True),
        ((3, 24, 8, 8), "silu", True),
        ((4, 72, 1, 1), "", False),
        ((1, 8, 72, 72), "", True),
    ],
)
def test_batch_norm(shape: tuple[int, ...], activation: str, has_means: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    channels = shape[1]
    norm = TritonBatchNorm2d(channels, eps=1e-3, momentum=0.1, device=DEVICE)
    norm.activation = activation
    plain = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1, device=DEVICE, dtype=torch.float64)
    activate = {"": nn.Identity(), "relu": nn.ReLU(), "silu": nn.SiLU()}[activation]

    def kernel(input: Tensor, weight: Tensor, bias: Tensor) -> Sequence[Tensor]:
        running = {"running_mean": norm.running_mean, "running_var": norm.running_var}
        given = running | {"num_batches": norm.num_batches_tracked, "momentum": 0.1, "eps": 1e-3}
        output, means = batch_norm(input, weight, bias, **given, activation=activation, has_means=has_means)
        return [output] if means is None else [output, means]

    def reference(input: Tensor, weight: Tensor, bias: Tensor) -> Sequence[Tensor]:
        output = activate(torch.func.functional_call(plain, {"weight": weight, "bias": bias}, (input,)))
        return [output, output.mean((2, 3), keepdim=True)] if has_means else [output]

    given = [channels_last(*shape, dtype=dtype), *torch.randn(2, channels, device=DEVICE)]
    assert_equal(kernel, reference, given, TOLERANCE[dtype])
    for (name, found), expected in zip(norm.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected.to(found.dtype), msg=lambda text, name=name: f"{name}: {text}")
    values = channels_last(*shape)
    norm.eval(), plain.eval()
    expected = activate(plain(values.double())).float()
    for found, target in zip(norm.with_means(values), (expected, expected.mean((2, 3), keepdim=True)), strict=True):
        torch.testing.assert_close(found, target, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mean", "std", "first"), [(1000.0, 1.0, 1000.0), (0.0, 1.0, 300.0), (7.0, 0.0, 7.0)])
def test_batch_norm_keeps_its_digits(mean: float, std: float, first: float) -> None:
    torch.manual_seed(0)
    values = (mean + std * torch.randn(2, 8, 32, 32)).to(DEVICE, memory_format=torch.channels_last)
    values[0, :, 0, 0] = first
    norm = TritonBatchNorm2d(8, device=DEVICE)
    found = norm(values).double()
    expected = nn.BatchNorm2d(8, device=DEVICE, dtype=torch.float64)(values.double())
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_batch_norm_leaves_other_memory_orders_to_torch() -> None:
    torch.manual_seed(0)
    norm = TritonBatchNorm2d(4, device=DEVICE)
    norm.activation = "relu"
    values = torch.randn(2, 4, 3, 5, device=DEVICE)
    torch.testing.assert_close(norm(values), nn.BatchNorm2d(4, device=DEVICE)(values).relu())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(values[:1, :, :1, :1])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, in Triton's interpreter
@pytest.mark.parametrize("activation", ["", "relu", "silu"])
def test_what_is_not_a_number_comes_out_of_batch_norm(activation: str) -> None:
    norm = TritonBatchNorm2d(8, device=DEVICE)
    norm.activation = activation
    values = channels_last(2, 8, 4, 4)
    values[0, 3, 1, 1] = torch.inf
    values.requires_grad_()
    output = norm(values)
    output.sum().backward()
    for found in (output.mean((0, 2, 3)), norm.running_mean, norm.running_var, norm.weight.grad):
        assert torch.isfinite(found).tolist() == [channel != 3 for channel in range(8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(2, 40, 9, 12), (3, 33, 8, 8)])
def test_gates_scale_a_map(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = [channels_last(*shape, dtype=dtype), torch.rand(*shape[:2], 1, 1, device=DEVICE).to(dtype)]
    assert_equal(lambda *values: [excite(*values)], lambda *values: [torch.mul(*values)], given, TOLERANCE[dtype])


def test_a_block_of_an_efficientnet_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of the block's other convolutions
    network = smp.create_model("Unet", "efficientnet-b0", encoder_weights=None)
    for index in (0, 2):  # without and with expansion, and a residual
        torch.manual_seed(index)
        plain = network.encoder._blocks[index].to(DEVICE, memory_format=torch.channels_last)
        assert type(plain) is MBConvBlock
        swapped = nn.ModuleList([copy.deepcopy(plain)])
        swap_modules(swapped)
        assert type(swapped[0]) is TritonMBConvBlock
        images = channels_last(3, plain._project_conv.in_channels // (1 if index == 0 else 6), 6, 6)
        results = []
        for block in (plain, swapped[0]):
            torch.manual_seed(1)  # of drop connect
            inputs = images.clone().requires_grad_()
            output = block(inputs, drop_connect_rate=0.5)
            output.square().sum().backward()
            result = [output, inputs.grad, *(weight.grad for weight in block.parameters()), *block.buffers()]
            results.append([*result, block.eval()(images, drop_connect_rate=0.5)])
        for target, found in zip(*results, strict=True):
            torch.testing.assert_close(found, target, rtol=1e-3, atol=1e-4)


def test_modules_that_kernels_compute_are_found() -> None:
    layers = [
        nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=8, padding="same"), nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 8, (3, 5), groups=8), nn.Conv2d(8, 8, 9, groups=8), nn.Conv2d(8, 16, 3, groups=8),
        nn.BatchNorm2d(8), nn.BatchNorm2d(8, momentum=None), nn.BatchNorm2d(8, affine=False),
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.SiLU()),
    ]  # fmt: skip
    model = nn.ModuleList(layers)
    swap_modules(model)
    taken = [type(layer).__name__ for layer in layers if type(layer).__name__.startswith("Triton")]
    assert taken == ["TritonDepthwiseConv2d", "TritonBatchNorm2d"]
    norm, nothing, after = layers[-1]
    assert (norm.activation, type(after)) == ("relu", nn.SiLU)
    assert isinstance(nothing, nn.ReLU) and nothing(torch.tensor(-1.0)) == -1

    shared = nn.BatchNorm2d(8)
    model = nn.Sequential(nn.Sequential(shared, nn.SiLU()), shared)
    swap_modules(model)
    assert (shared.activation, type(model[0][1])) == ("", nn.SiLU)

    network = smp.create_model("DeepLabV3Plus", "efficientnet-b0", encoder_weights=None)
    before = list(network.state_dict())
    swap_modules(network)
    kinds = [type(module).__name__ for module in network.modules()]
    assert (kinds.count("TritonMBConvBlock"), kinds.count("TritonDepthwiseConv2d")) == (16, 21)
    assert kinds.count("BatchNorm2d") == 0
    assert list(network.state_dict()) == before


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("efficientnet-b0", "Unet"), ("densenet121", "Unet"), ("mobilenet_v2", "DeepLabV3Plus")]
)
def test_a_network_is_the_same_function_with_what_has_been_swapped(encoder: str, decoder: str) -> None:
    """In float64 and torch's own memory order, which kernels leave to torch: what is left is where things are done."""
    plain = smp.create_model(decoder, encoder, encoder_weights=None, classes=3)
    swapped = copy.deepcopy(plain)
    swap_modules(swapped)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    results = []
    for network in (plain.double(), swapped.double()):
        torch.manual_seed(1)  # of dropout and drop connect
        logits = network(images)
        logits.square().mean().backward()
        gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
        results.append((logits, gradients, dict(network.named_buffers()), network.eval()(images)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-9)


def test_kernels_compile_for_a_gpu_and_load_whole_vectors() -> None:
    command = [sys.executable, "-m", "tests.models.compile_kernels"]
    answer = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 20


def test_where_triton_works_a_network_for_a_gpu_uses_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.are_usable(DEVICE)
    monkeypatch.setattr(kernels, "are_usable", lambda device: device.type == "cuda")
    for triton in (True, False):
        network = smp.create_model("Unet", "efficientnet-b0", encoder_weights=None, classes=3)
        fuse(network, device=torch.device("cuda"), triton=triton)
        kinds = {type(module) for module in network.modules()}
        assert ({TritonBatchNorm2d, TritonDepthwiseConv2d, TritonMBConvBlock} <= kinds) == triton
        assert {AlignedConv2d, UpsamplingConv2d} <= kinds


@pytest.mark.parametrize("wrong", ["result", "gradient", "failure"])
def test_where_triton_does_not_work_one_line_says_why(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(features: Tensor, gates: Tensor) -> Tensor:
        if wrong == "failure":
            raise RuntimeError("Failed to find C compiler.\nPlease specify")
        return excite(features, gates) * 2 if wrong == "result" else excite(features, gates.detach())

    monkeypatch.setattr(probe, "excite", broken)
    assert not kernels.are_usable.__wrapped__(DEVICE)  # itself, not what it has found before
    (message,) = caplog.messages
    reason = "RuntimeError: Failed to find C compiler.)" if wrong == "failure" else "AssertionError: "
    assert message.startswith(f"network: Triton does not work here, so that steps take longer ({reason}")
    monkeypatch.setattr(kernels, "are_usable", lambda device: False)
    network = nn.Sequential(nn.BatchNorm2d(8))
    fuse(network, device=torch.device("cuda"), triton=True)
    assert type(network[0]) is nn.BatchNorm2d
