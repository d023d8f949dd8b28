"""Names against what they stand for."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from trash_seg.compose import compose_config
from trash_seg.engine.loss import build_loss
from trash_seg.engine.optimizer import build_optimizer

CPU = torch.device("cpu")
DICE, LOVASZ = smp.losses.DiceLoss("multiclass"), smp.losses.LovaszLoss("multiclass")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss=cross_entropy", "loss.label_smoothing=0.2"], lambda x, y: F.cross_entropy(x, y, label_smoothing=0.2)),
        (["loss=dice"], DICE),
        (["loss=focal", "loss.focal_gamma=3"], smp.losses.FocalLoss("multiclass", gamma=3)),
        (["loss=lovasz"], LOVASZ),
        (["loss=ce_dice", "loss.dice_weight=0.3"], lambda x, y: 0.7 * F.cross_entropy(x, y) + 0.3 * DICE(x, y)),
        (
            ["loss.class_weights=[1,2,3,4,5,6,7,8,9,10,11,12]"],
            lambda x, y: F.cross_entropy(x, y, weight=torch.arange(1.0, 13)),
        ),
    ],
)
def test_each_loss_is_the_one_it_is_called(overrides: list[str], expected) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, 16, 16, generator=generator)
    masks = torch.randint(0, 12, (2, 16, 16), generator=generator)
    loss = build_loss(compose_config(overrides).loss, pixels=None, device=CPU)
    assert float(loss(logits, masks)) == pytest.approx(float(expected(logits, masks)), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("radam", torch.optim.RAdam),
    ],
)
def test_each_optimizer_is_the_one_it_is_called(name: str, kind: type) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(compose_config([f"optimizer={name}"]).optimizer, [weight], device=CPU)
    assert type(optimizer) is kind
