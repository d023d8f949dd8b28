import pytest
import torch
import torch.nn.functional as F

from tests.engine.test_step import batch, make_step
from trash_seg.engine.exact import ExactResampling


def names_of_backward(result: torch.Tensor) -> set[str]:
    """Of every node of the graph that made a tensor."""
    found, queue = set(), [result.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in found:
            found.add(node)
            queue += [next_node for next_node, _ in node.next_functions]
    return {node.name() for node in found if node is not None}


def compare(function, image: torch.Tensor) -> None:
    """Result and gradient, within the precision of float32, and without torch's own backward pass."""
    ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    expected = function(theirs)
    with ExactResampling():
        result = function(ours)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    assert not any("Upsample" in name or "AdaptiveAvgPool" in name for name in names_of_backward(result))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    "target",
    [{"scale_factor": 2}, {"scale_factor": 4.0}, {"scale_factor": 0.5}, {"scale_factor": (2, 3)}, {"scale_factor": 1.7},
     {"size": (7, 11)}, {"size": 1}, {"size": (33, 6)}],
)  # fmt: skip
def test_bilinear_interpolation(target: dict, align_corners: bool) -> None:
    image = torch.randn(2, 3, 9, 6, generator=torch.Generator().manual_seed(0))
    compare(lambda values: F.interpolate(values, **target, mode="bilinear", align_corners=align_corners), image)


@pytest.mark.parametrize("size", [1, 2, 3, 6, (None, 4), (5, 1)])
def test_adaptive_pooling(size) -> None:
    image = torch.randn(2, 3, 10, 13, generator=torch.Generator().manual_seed(0))
    compare(lambda values: F.adaptive_avg_pool2d(values, size), image)


def test_modules_and_half_precision_go_the_same_way() -> None:
    image = torch.randn(1, 2, 8, 8).bfloat16()
    module = torch.nn.UpsamplingBilinear2d(scale_factor=4)
    with ExactResampling():
        result = module(image)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, module(image), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("decoder", ["DeepLabV3Plus", "PSPNet", "UPerNet", "FPN"])
def test_a_deterministic_network_has_no_atomics_and_the_same_logits(decoder: str) -> None:
    images, _ = batch()
    plain, exact = (
        make_step(f"decoder={decoder}", f"training.deterministic={deterministic}", "training.image_size=64")
        for deterministic in ("false", "true")
    )
    plain.model.eval(), exact.model.eval()
    images = F.interpolate(images.float(), size=64).to(torch.uint8)
    expected, result = (step.forward.logits(step.model, step.forward.place(images)) for step in (plain, exact))
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
    assert any("UpsampleBilinear" in name for name in names_of_backward(expected))
    assert not any("UpsampleBilinear" in name for name in names_of_backward(result))
