import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from trash_seg.inference.fold import fold_batch_norms


def images(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def lived_in(model: nn.Module) -> nn.Module:
    """With running statistics and factors other than those of a new network."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize(
    ("encoder", "decoder", "left"),
    [("resnet18", "Unet", 0), ("efficientnet-b0", "FPN", 1), ("mobilenet_v2", "DeepLabV3Plus", 0),
     ("densenet121", "Unet", 63), ("tu-mobilenetv3_small_100", "Unet", 1)],
)  # fmt: skip
def test_the_folded_network_is_the_same_but_for_rounding(encoder: str, decoder: str, left: int) -> None:
    model = lived_in(smp.create_model(decoder, encoder, encoder_weights=None, classes=5))
    expected = model(images())
    folded = fold_batch_norms(model, images())
    assert folded is not None
    torch.testing.assert_close(folded(images()), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(model(images()), expected)  # the network itself is as it was
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) for network in (model, folded)]
    assert norms[1] <= left < norms[0]


def test_a_convolution_whose_output_goes_elsewhere_too_is_left_alone() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    assert fold_batch_norms(lived_in(Forked()), images()) is None
