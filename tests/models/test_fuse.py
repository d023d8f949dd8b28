import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import nn

from trash_seg.models.convolutions import (
    AlignedConv2d,
    DepthwiseConv2d,
    PaddingDepthwiseConv2d,
    ShiftedConv2d,
    TrimmedConv2d,
    UpsamplingConv2d,
)
from trash_seg.models.fuse import fuse

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("encoder", "decoder", "options", "num_upsampling", "num_trimmed", "num_shifted"),
    [
        ("resnet18", "Unet", {}, 5, 0, 0),
        ("mit_b0", "Unet", {}, 5, 0, 0),  # its first feature has no channels
        ("tu-convnext_atto", "Unet", {}, 5, 0, 0),  # a level is enlarged by more than 2
        ("resnet18", "Unet", {"decoder_use_norm": False}, 5, 0, 0),
        ("resnet18", "Unet", {"decoder_interpolation": "bilinear"}, 0, 0, 0),
        ("resnet18", "Unet", {"decoder_attention_type": "scse"}, 0, 0, 0),
        ("resnet18", "UnetPlusPlus", {}, 11, 0, 0),
        ("resnet18", "DeepLabV3", {}, 0, 11, 0),
        ("resnet18", "DeepLabV3Plus", {}, 0, 4, 3),
        ("mobilenet_v2", "DeepLabV3Plus", {}, 0, 0, 7),
        ("efficientnet-b0", "DeepLabV3Plus", {}, 0, 0, 4),  # pads by itself
        ("efficientnet-b0", "FPN", {}, 0, 0, 0),  # on two sides alone where it strides
    ],
)
def test_the_fused_network_is_the_same_function_of_the_same_weights(
    encoder: str,
    decoder: str,
    options: dict[str, object],
    num_upsampling: int,
    num_trimmed: int,
    num_shifted: int,
) -> None:
    torch.manual_seed(0)
    plain = smp.create_model(decoder, encoder, encoder_weights=None, classes=3, **options).double()
    fused = copy.deepcopy(plain)
    fuse(fused, device=CPU, triton=True)
    kinds = [type(module) for module in fused.modules()]
    assert kinds.count(UpsamplingConv2d) == num_upsampling
    assert kinds.count(TrimmedConv2d) == num_trimmed
    assert kinds.count(ShiftedConv2d) == num_shifted
    assert list(fused.state_dict()) == list(plain.state_dict())

    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    gradients = []
    for network in (plain, fused):
        torch.manual_seed(1)  # dropout
        logits = network(images)
        logits.square().mean().backward()
        gradients.append([logits, *(weight.grad for weight in network.parameters() if weight.grad is not None)])
    for expected, value in zip(*gradients, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("size", "dilation", "num_weights"), [(8, 8, 1), (8, 7, 9), (8, 12, 1), (9, 8, 9)])
def test_outer_weights_are_left_out_only_where_they_meet_padding(size: int, dilation: int, num_weights: int) -> None:
    conv = nn.Conv2d(2, 2, 3, padding=dilation, dilation=dilation)
    images = torch.randn(1, 2, size, size)
    expected = conv(images)
    fuse(conv, device=CPU, triton=True)
    value = conv(images)
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    assert conv.weight.grad is not None
    assert int((conv.weight.grad[0, 0] != 0).sum()) == num_weights


@pytest.mark.parametrize("dilation", [2, 4, 5, (6, 2)])  # up to 4 oneDNN computes the result, not the gradients
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (13, 12)])
def test_shifted_products_are_the_depthwise_convolution(size: tuple[int, int], dilation: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 3, 3, padding=dilation, dilation=dilation, groups=3, dtype=torch.float64)
    shifted = copy.deepcopy(plain)
    fuse(shifted, device=CPU, triton=True)
    assert type(shifted) is ShiftedConv2d
    images, target = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    results = []
    for conv in (plain, shifted):
        inputs = images.clone().requires_grad_()
        value = conv(inputs)
        (value * target).sum().backward()
        results.append([value, inputs.grad, conv.weight.grad, conv.bias.grad])
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(5, 1, 2), (5, 2, 2), (3, 2, 1), (7, (1, 2), 3), ((2, 8), 3, (1, 0)), (5, 1, 4)]
)
def test_gradients_by_another_way_are_those_of_the_depthwise_convolution(
    kernel: int, stride: int, padding: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 3, kernel, stride=stride, padding=padding, groups=3, dtype=dtype)
    other = copy.deepcopy(plain)
    fuse(other, device=CPU, triton=True)
    assert type(other) is DepthwiseConv2d
    images = torch.randn(2, 3, 13, 16, dtype=dtype)
    results = []
    for conv in (plain, other):
        inputs = images.clone().requires_grad_()
        value = conv(inputs)
        (value * torch.linspace(-1, 1, value.numel(), dtype=dtype).view_as(value)).sum().backward()
        results.append([value, inputs.grad, conv.weight.grad, conv.bias.grad])
    for expected, value in zip(*results, strict=True):
        assert value.dtype == dtype
        tolerance = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(value, expected, **tolerance)


def test_what_an_efficientnet_pads_by_itself_before_it_strides_is_found() -> None:
    network = smp.create_model("FPN", "efficientnet-b0", encoder_weights=None)
    fuse(network, device=CPU, triton=True)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(PaddingDepthwiseConv2d) == sum(
        max(module.stride) > 1 and module.groups > 1 for module in network.modules() if isinstance(module, nn.Conv2d)
    )
    assert PaddingDepthwiseConv2d in kinds and DepthwiseConv2d in kinds


def test_mixed_precision_gives_gradients_in_the_weights_precision() -> None:
    conv = nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4)
    fuse(conv, device=CPU, triton=True)
    images = torch.randn(2, 4, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = conv(images)
    assert value.dtype == torch.bfloat16
    value.float().sum().backward()
    assert images.grad is not None and conv.weight.grad is not None
    assert images.grad.dtype == conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": 5}, {"padding": 2, "padding_mode": "reflect"}, {"dilation": 2}]
)
def test_other_depthwise_convolutions_are_left_alone(options: dict[str, object]) -> None:
    conv = nn.Conv2d(2, 2, 5, groups=2, **options)  # type: ignore[arg-type]
    fuse(conv, device=CPU, triton=True)
    assert type(conv) is nn.Conv2d


def test_a_depthwise_convolution_that_makes_more_channels_is_no_sum_of_shifted_ones() -> None:
    conv = nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2)
    fuse(conv, device=CPU, triton=True)
    assert type(conv) is TrimmedConv2d


def test_a_dilated_convolution_whose_padding_is_not_zeros_is_left_alone() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=8, dilation=8, padding_mode="circular")
    images = torch.randn(1, 2, 8, 8)
    expected = conv(images)
    fuse(conv, device=CPU, triton=True)
    torch.testing.assert_close(conv(images), expected)


def test_a_gpu_keeps_what_it_does_fast() -> None:
    """Planned for CUDA, computed here: joined padding, upsampling and aligned results are the same function."""
    cuda = torch.device("cuda")
    torch.manual_seed(0)
    plain = smp.create_model("Unet", "efficientnet-b0", encoder_weights=None, classes=3)
    fused = copy.deepcopy(plain)
    fuse(fused, device=cuda, triton=True)
    kinds = [type(module) for module in fused.modules()]
    assert (kinds.count(UpsamplingConv2d), kinds.count(AlignedConv2d)) == (5, 1)
    assert not {DepthwiseConv2d, PaddingDepthwiseConv2d} & set(kinds)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(fused.eval()(images), plain.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [3, 8, 12])
def test_half_precision_makes_results_in_multiples_of_eight(classes: int) -> None:
    torch.manual_seed(0)
    plain = SegmentationHead(16, classes)
    aligned = copy.deepcopy(plain)
    fuse(aligned, device=torch.device("cuda"), triton=True)
    assert isinstance(aligned[0], AlignedConv2d) == (classes != 8)
    images = torch.randn(2, 16, 8, 8)
    results = []
    for head in (plain, aligned):
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(images)
        logits.float().square().sum().backward()
        results.append([logits, *(weight.grad for weight in head.parameters())])
    if classes != 8:
        aligned_logits = results[1][0]._base
        assert aligned_logits is not None and aligned_logits.shape[1] % 8 == 0
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected)


def test_a_fixed_kernel_gives_the_same_without_the_weights_it_stands_for() -> None:
    block = UnetDecoderBlock(in_channels=4, skip_channels=3, out_channels=5).eval()
    fuse(block, device=CPU, triton=True)
    features, skip = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = block(features, 16, 16, skip)
        block.conv1[0].fix()
        block.conv1[0].weight[:, :4] = 0
        torch.testing.assert_close(block(features, 16, 16, skip), expected)
