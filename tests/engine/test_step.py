import copy
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from trash_seg.compose import compose_config
from trash_seg.engine.loss import build_loss
from trash_seg.engine.optimizer import build_optimizer, start_momentum
from trash_seg.engine.precision import cast_weights, check_precision, has_bf16
from trash_seg.engine.step import Forward, Step, choose_device
from trash_seg.errors import ConfigError
from trash_seg.models.build import build_model
from trash_seg.models.convolutions import AlignedConv2d
from trash_seg.models.fuse import fuse

CPU = torch.device("cpu")
PIXELS = np.array([100, 50, 0, *[10] * 9])


def make_step(*overrides: str) -> Step:
    config = compose_config(["training.image_size=32", *overrides])
    torch.manual_seed(0)
    criterion = build_loss(config.loss, pixels=PIXELS, device=CPU, deterministic=config.training.deterministic)
    return Step(build_model(config), config=config, criterion=criterion, steps_per_epoch=4, device=CPU)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 12, (2, 32, 32), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.precision=bf16",),
        ("training.channels_last=false",),
        ("training.gradient_clip=0.1",),
        ("training.ema_decay=0.9",),
        ("loss=dice",),
        ("loss=focal",),
        ("loss=lovasz",),
        ("loss=ce_dice",),
        ("loss.class_weights=balanced", "loss.label_smoothing=0.1"),
        ("optimizer=adamw",),
        ("optimizer=sgd", "scheduler=onecycle"),
        ("optimizer=radam", "scheduler=cosine", "scheduler.warmup_epochs=0.5"),
    ],
)
def test_every_recipe_learns_a_batch_by_heart(overrides: tuple[str, ...]) -> None:
    step = make_step("optimizer.lr=1e-2", "training.epochs=20", *overrides)
    step.model.train()
    losses = [float(step.train(*batch())) for _ in range(12)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("overrides", [(), ("training.ema_decay=0.9",), ("training.precision=bf16",)])
def test_a_batch_that_is_filled_up_counts_its_own_images_alone(overrides: tuple[str, ...]) -> None:
    step = make_step(*overrides)
    step.train(*batch())
    step.evaluated.eval()
    loss, counts = step.validate(*batch())
    predicted = step.predict(batch()[0])
    step.forward.whole_batches = True  # as on CUDA; a batch is of 8
    sizes = []
    step.evaluated.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    filled_loss, filled_counts = step.validate(*batch())
    torch.testing.assert_close(filled_loss, loss)
    assert filled_counts.shape == counts.shape and int(filled_counts.sum()) == int(counts.sum()) == 2 * 32 * 32
    assert int((filled_counts - counts).abs().sum()) <= 4  # pixels at a tie
    assert step.predict(batch()[0]).shape == predicted.shape
    assert sizes == [8, 8]


def test_momentum_that_begins_with_zeros_is_the_same_momentum() -> None:
    plain, begun = (make_step("optimizer=sgd") for _ in range(2))
    start_momentum(begun.optimizer)
    assert len(begun.optimizer.state) == len(list(begun.model.parameters()))
    losses = [[float(step.train(*batch())) for _ in range(4)] for step in (plain, begun)]
    assert losses[0] == losses[1]


def test_a_step_that_overflows_leaves_momentum_at_zero() -> None:
    """torch would make it of whatever memory holds, and take it for momentum in the next step."""
    step = make_step("optimizer=sgd", "training.precision=fp16")
    before = [weight.detach().clone() for weight in step.model.parameters()]
    for weight in step.model.parameters():
        weight.register_hook(lambda gradient: gradient * torch.inf)
    step.train(*batch())
    assert all(torch.equal(*pair) for pair in zip(before, step.model.parameters(), strict=True))
    buffers = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    assert buffers and not any(buffer.any() for buffer in buffers)


def test_clipping_bounds_the_gradient() -> None:
    step = make_step("training.gradient_clip=1e-3")
    step.train(*batch())
    norm = torch.nn.utils.get_total_norm([p.grad for p in step.model.parameters()])
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_moving_average_is_what_validates() -> None:
    step = make_step("training.ema_decay=0.5")
    before = next(step.model.parameters()).detach().clone()
    step.train(*batch())
    first = next(step.model.parameters()).detach().clone()
    step.train(*batch())
    second = next(step.model.parameters()).detach()
    average = next(step.evaluated.parameters()).detach()
    assert not torch.equal(before, first)
    torch.testing.assert_close(average, 0.5 * first + 0.5 * second)
    counts = [buffer for buffer in step.evaluated.buffers() if not buffer.is_floating_point()]
    assert counts and all(int(count) == 2 for count in counts)


def test_balanced_weights_make_the_mean_weight_of_a_pixel_one() -> None:
    config = compose_config(["loss.class_weights=balanced"])
    criterion = build_loss(config.loss, pixels=PIXELS, device=CPU, deterministic=config.training.deterministic)
    weights = criterion.keywords["weights"].numpy()
    assert weights[2] == 0  # no pixel of that class
    assert (weights * PIXELS).sum() / PIXELS.sum() == pytest.approx(1)
    assert weights[1] == pytest.approx(2 * weights[0])


def test_the_learning_rate_recorded_is_that_of_the_last_step() -> None:
    step = make_step("scheduler=cosine", "training.epochs=1")
    seen = []
    for _ in range(4):
        step.train(*batch())
        seen.append(step.optimizer.param_groups[0]["lr"])
        assert step.lr == pytest.approx(seen[-1])
    assert seen == sorted(seen, reverse=True)


def test_what_a_machine_cannot_do_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"training\.precision=fp16: needs a CUDA device"):
        check_precision("fp16", CPU)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"runtime\.device=cuda"):
            choose_device("cuda")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags of an x86 processor")
def test_bf16_is_for_processors_that_have_it() -> None:
    """Not for those on which oneDNN emulates it."""
    flags = Path("/proc/cpuinfo").read_text()
    assert has_bf16() == ("avx512_bf16" in flags or "amx_bf16" in flags)
    if has_bf16():
        check_precision("bf16", CPU)
    else:
        with pytest.raises(ConfigError, match=r"training\.precision=bf16: this processor has no bf16"):
            check_precision("bf16", CPU)


@pytest.mark.parametrize(
    ("override", "message"),
    [("optimizer.name=Adamm", "no such optimizer"), ("+optimizer.options.momentum=0.9", "Adam refuses them")],
)
def test_an_optimizer_that_torch_refuses_names_the_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(compose_config([override]).optimizer, torch.nn.Linear(1, 1).parameters(), device=CPU)


def test_a_batch_in_which_every_pixel_has_weight_0_costs_nothing() -> None:
    config = compose_config(["loss.class_weights=balanced"])
    criterion = build_loss(config.loss, pixels=PIXELS, device=CPU, deterministic=config.training.deterministic)
    logits = torch.zeros(1, 12, 2, 2, requires_grad=True)
    loss = criterion(logits, torch.full((1, 2, 2), 2))  # PIXELS has none of class 2
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None and not logits.grad.any()


def test_weighted_cross_entropy_is_torchs() -> None:
    config = compose_config(["loss.class_weights=balanced", "loss.label_smoothing=0.1"])
    criterion = build_loss(config.loss, pixels=PIXELS + 1, device=CPU)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, 5, 5, generator=generator)
    masks = torch.randint(0, 12, (2, 5, 5), generator=generator)
    reference = torch.nn.CrossEntropyLoss(weight=criterion.keywords["weights"], label_smoothing=0.1)
    torch.testing.assert_close(criterion(logits, masks), reference(logits, masks))


def test_a_fused_optimizer_steps_weights_in_channels_last_as_the_plain_one() -> None:
    step = make_step()
    (group,) = step.optimizer.param_groups
    assert group["fused"]
    plain = build_model(compose_config(["training.image_size=32"]))
    optimizer = torch.optim.Adam(plain.parameters(), lr=group["lr"], weight_decay=group["weight_decay"])
    for _ in range(2):
        plain.load_state_dict(step.model.state_dict())
        step.train(*batch())
        pairs = list(zip(plain.parameters(), step.model.parameters(), strict=True))
        for own, other in pairs:
            assert other.grad is not None
            own.grad = other.grad.contiguous()
        optimizer.step()
        for own, other in pairs:
            torch.testing.assert_close(other, own)


@pytest.mark.skipif(not has_bf16(), reason="emulated, and slowly")
@pytest.mark.parametrize("decoder", ["DeepLabV3Plus", "Unet"])
def test_weights_cast_together_are_those_that_autocast_casts(decoder: str) -> None:
    config = compose_config(["encoder=efficientnet-b0", f"decoder={decoder}", "training.precision=bf16"])
    device = torch.device("cpu")
    torch.manual_seed(0)
    built = build_model(config)
    fuse(built, device=device, triton=True)
    images = torch.randint(255, (2, 3, 64, 64), dtype=torch.uint8)
    results = []
    for together in (False, True):
        forward = Forward(config.training, device=device)
        forward.casts_together = together
        model = forward.place_model(copy.deepcopy(built))
        torch.manual_seed(1)  # of dropout
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            logits = forward.logits(model, forward.place(images))
            logits.square().mean().backward()
        casts = sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")
        results.append((casts, logits, {name: weight.grad for name, weight in model.named_parameters()}))
    (casts, logits, gradients), (fewer_casts, *found) = results
    torch.testing.assert_close(found, [logits, gradients], rtol=0, atol=0)
    num_used = len(cast_weights(built, torch.bfloat16)) - 1  # the encoder has a head that nothing uses
    assert casts - fewer_casts == 2 * num_used  # there and back


def test_a_weight_of_two_layers_is_cast_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), AlignedConv2d(4, 3, 1), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    weights = cast_weights(model, torch.bfloat16)
    assert list(weights) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.bias"]
    values = torch.randn(2, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(values.clone())
        found = functional_call(model, weights, (values.clone(),))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
