import pytest
import torch

from trash_seg.config import SchedulerConfig
from trash_seg.engine.schedule import lr_factor


def curve(name: str, *, warmup_epochs: float = 0.0, min_factor: float = 0.0, power: float = 0.9) -> list[float]:
    config = SchedulerConfig(name=name, warmup_epochs=warmup_epochs, min_factor=min_factor, power=power)
    return [lr_factor(config, step, steps_per_epoch=10, num_steps=40) for step in range(40)]


def torch_curve(scheduler: type, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = scheduler(optimizer, **options)
    factors = []
    for _ in range(40):
        factors.append(optimizer.param_groups[0]["lr"])
        if len(factors) < 40:  # OneCycleLR refuses a step past its last
            optimizer.step()
            schedule.step()
    return factors


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (curve("constant"), [1.0] * 40),
        (curve("cosine"), torch_curve(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=40)),
        (
            curve("cosine", min_factor=0.1),
            torch_curve(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=40, eta_min=0.1),
        ),
        (
            curve("onecycle"),
            torch_curve(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=40, cycle_momentum=False),
        ),
        (curve("poly"), torch_curve(torch.optim.lr_scheduler.PolynomialLR, total_iters=40, power=0.9)),
    ],
)
def test_agrees_with_torch(ours: list[float], theirs: list[float]) -> None:
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_warm_up_rises_to_the_peak_and_then_follows_the_curve() -> None:
    factors = curve("cosine", warmup_epochs=0.5)
    assert factors[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert factors[5] == 1.0
    assert factors[5:] == sorted(factors[5:], reverse=True)
