"""What of a captured step can be seen without a GPU; with one, that it equals the eager step bit for bit."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import TINY, Train
from tests.data.test_augment import LOG
from tests.data.test_device import SPLIT
from tests.engine.test_step import batch, make_step
from trash_seg.compose import compose_config
from trash_seg.data.device import DeviceLoader
from trash_seg.engine.capture import find_obstacle, unchanged
from trash_seg.engine.checkpoint import _in_own_form
from trash_seg.engine.loss import Criterion, build_loss
from trash_seg.engine.optimizer import build_optimizer
from trash_seg.engine.step import Step
from trash_seg.engine.warm_up import DTYPES, _use_cuda, cuda_warming_up
from trash_seg.models.build import build_model
from trash_seg.models.fuse import fuse
from trash_seg.training import make_deterministic, takes_triton

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def growing_scaler() -> torch.amp.GradScaler:
    """As in fp16, which a CPU takes seconds for; its scale grows every other step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scaler.scale(torch.zeros(()))
    return scaler


@pytest.mark.parametrize(
    ("optimizer", "scaled"), [("adam", False), ("adam", True), ("adamw", False), ("radam", False), ("sgd", True)]
)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_warm_up_leaves_no_trace(optimizer: str, scaled: bool, steps_before: int) -> None:
    """Three steps more, taken back, and everything after is as without them: fresh, and after a resume."""
    warmed, plain = (make_step(f"optimizer={optimizer}", "optimizer.lr=1e-2") for _ in range(2))
    for step in (warmed, plain):
        step.scaler = growing_scaler() if scaled else step.scaler
        step.model.train()
        for _ in range(steps_before):
            step.train(*batch())
    torch.manual_seed(5)
    with unchanged(warmed.model, warmed.optimizer, warmed.scaler):
        for _ in range(3):
            warmed._train_eagerly(*batch())
            torch.rand(1)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))
    losses = [[float(step.train(*batch())) for _ in range(3)] for step in (warmed, plain)]
    assert losses[0] == losses[1]
    assert warmed.scaler.state_dict() == plain.scaler.state_dict()
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, warmed.model.state_dict()[name]), name


def test_a_warm_up_that_breaks_off_leaves_no_trace_of_a_loss_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of a step the gradients are unscaled, and the optimizer knows the scale."""
    broken, plain = (make_step("optimizer=sgd", "training.gradient_clip=1") for _ in range(2))
    for step in (broken, plain):
        step.scaler = growing_scaler()
    with monkeypatch.context() as patch:
        patch.setattr(broken.optimizer, "step", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError), unchanged(broken.model, broken.optimizer, broken.scaler):
            broken.optimizer.grad_scale = torch.full((), 4.0)  # type: ignore[attr-defined]
            broken._train_eagerly(*batch())
    losses = [[float(step.train(*batch())) for _ in range(3)] for step in (broken, plain)]
    assert losses[0] == losses[1]
    assert not {"grad_scale", "found_inf"} & set(vars(broken.optimizer))


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["training.precision=fp16"], None),
        (["training.precision=fp16", "optimizer=radam"], "a step of RAdam overflowed"),
        (["loss=lovasz"], "lovasz"),
        (["optimizer.name=Adagrad"], "Adagrad"),
        (["optimizer=sgd", "+optimizer.options.dampening=0.5", "optimizer.options.nesterov=false"], "damp"),
        (["+optimizer.options.foreach=true"], "the host reads the learning rate"),
        (["optimizer=sgd", "training.precision=bf16"], None),
        (["loss=dice"], None),
    ],
)
def test_obstacles_are_known_before_any_data_is_read(overrides: list[str], word: str | None) -> None:
    config = compose_config(overrides)
    weights = torch.nn.Linear(1, 1).parameters()
    optimizer = build_optimizer(config.optimizer, weights, device=torch.device("cpu"))
    if "foreach" not in config.optimizer.options:
        form = "capturable" if config.optimizer.name == "RAdam" else "fused"
        optimizer.param_groups[0].update({form: True, "lr": torch.tensor(0.1)})  # as on CUDA
    found = find_obstacle(config, optimizer)
    assert (found is None) if word is None else (found is not None and word in found)


@pytest.mark.parametrize("kind", [torch.optim.RAdam, torch.optim.Adam])
def test_a_state_saved_on_a_gpu_goes_on_without_one(kind: type[torch.optim.Optimizer]) -> None:
    def make(**form: Any) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, kind([weight], **form)  # type: ignore[call-arg]

    (weight, plain), (_, target) = make(lr=0.1), make(lr=0.1)
    weight.grad = torch.ones(3)
    plain.step()
    saved = plain.state_dict()
    saved["param_groups"][0].update(capturable=True, fused=None, lr=torch.tensor(0.1))
    target.load_state_dict(_in_own_form(saved, target))
    (group,) = target.param_groups
    assert (group["lr"], group["capturable"]) == (0.1, False)
    group["params"][0].grad = torch.ones(3)
    target.step()  # capturable state on a CPU would be refused


def test_a_graph_needs_a_gpu(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = train(*TINY, "runtime=cpu", "runtime.step=graph")
    assert answer.code == 1
    assert "runtime.step=graph: there is no CUDA device" in answer.output
    assert "Traceback" not in answer.output


@pytest.mark.parametrize(
    ("overrides", "captured", "takes"),
    [
        ((), True, True),
        ((), False, False),
        (("training.deterministic=true",), False, True),
        (("training.deterministic=true", "training.channels_last=false"), True, False),
    ],
)
def test_kernels_are_for_captured_steps_and_their_equals(
    overrides: tuple[str, ...], captured: bool, takes: bool
) -> None:
    assert takes_triton(compose_config(overrides).training, captured=captured) == takes


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic mode, for the test alone."""
    make_deterministic(True)
    yield
    make_deterministic(False)


def on_cuda(*overrides: str, criterion: Criterion | None = None) -> tuple[Step, DeviceLoader]:
    """A step that makes its own samples, and their loader."""
    device = torch.device("cuda")
    config = compose_config(["training.image_size=96", "training.deterministic=true", *overrides])
    torch.manual_seed(0)
    loader = DeviceLoader(SPLIT, batch_size=8, device=device, seed=3, augmentation=LOG, shuffle=True, drop_last=True)
    built = build_loss(config.loss, pixels=np.ones(12, np.int64), device=device, deterministic=True)
    model = build_model(config)
    fuse(model, device=device, triton=takes_triton(config.training, captured=config.runtime.step != "eager"))
    step = Step(
        model, config=config, criterion=criterion or built, steps_per_epoch=loader.num_batches,
        device=device, train_samples=loader.samples, val_samples=loader.samples,
        capture=config.runtime.step != "eager",
    )  # fmt: skip
    return step, loader


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.precision=bf16",),
        ("training.precision=fp16", "decoder=Unet"),
        ("decoder=DeepLabV3Plus", "scheduler=cosine"),
        ("decoder=PSPNet", "optimizer=adamw", "training.gradient_clip=1"),
        ("encoder=efficientnet-b0", "training.ema_decay=0.9"),
        ("optimizer=sgd", "scheduler=onecycle"),
        ("optimizer=radam", "loss=ce_dice"),
    ],
)
def test_a_captured_run_equals_the_eager_run(overrides: tuple[str, ...]) -> None:
    def run(how: str) -> tuple[list[float], dict[str, Any], torch.Tensor]:
        step, loader = on_cuda(*overrides, f"runtime.step={how}", "training.epochs=9")
        losses = []
        for epoch in range(9):
            step.model.train()
            torch.manual_seed(epoch)
            losses += [step.train(*batch) for batch in loader.epoch(epoch)]
        step.evaluated.eval()
        counts = torch.cat([step.validate(*batch)[1] for batch in loader.epoch(0)])
        return torch.stack(losses).tolist(), copy.deepcopy(step.model.state_dict()), counts

    eager, captured = run("eager"), run("graph")
    assert len(eager[0]) > 100
    assert eager[0] == captured[0]
    assert all(torch.equal(tensor, captured[1][name]) for name, tensor in eager[1].items())
    assert torch.equal(eager[2], captured[2])


def two_epochs(criterion: Criterion, how: str) -> list[float]:
    """The losses of training and validating a network with dropout."""
    step, loader = on_cuda("decoder=DeepLabV3Plus", f"runtime.step={how}", criterion=criterion)
    losses = []
    for epoch in range(2):
        step.model.train()
        torch.manual_seed(epoch)
        losses += [float(step.train(*batch)) for batch in loader.epoch(epoch)]
        step.evaluated.eval()
        losses += [float(step.validate(*batch)[0]) for batch in loader.epoch(0)]
    return losses


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("always", [True, False])
def test_what_cannot_be_captured_goes_on_eagerly(always: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A loss that the host reads: the run is the eager one, dropout included, after a line that says why.

    What is read only in the capture breaks that itself, not the warm-up before it.
    """

    def read(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(logits, masks, reduction="none").mean()
        if always or torch.cuda.is_current_stream_capturing():
            loss.item()
        return loss

    assert two_epochs(read, "eager") == two_epochs(read, "auto")
    assert "because capturing fails" in caplog.text


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("deterministic")
def test_a_captured_validation_sees_new_weights() -> None:
    """timm's TinyViT keeps what it makes of its weights from one eval() to the next."""
    step, loader = on_cuda("encoder=timm", "encoder.name=tu-tiny_vit_5m_224", "runtime.step=graph")
    for epoch in range(3):
        step.model.train()
        for rows in loader.epoch(epoch):
            step.train(*rows)
        step.evaluated.eval()
        for rows in loader.epoch(0):
            assert torch.equal(step.validate(*rows)[1], step._validate_eagerly(*rows)[1])


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("deterministic")
def test_training_is_captured_anew_when_a_later_capture_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A criterion that is read in the capture of the validation alone; dropout follows the seed all the same."""

    def read(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(logits, masks, reduction="none").mean()
        if not logits.requires_grad and torch.cuda.is_current_stream_capturing():
            loss.item()
        return loss

    assert two_epochs(read, "eager") == two_epochs(read, "auto")
    assert "because capturing fails" in caplog.text


@pytest.mark.gpu
@needs_cuda
def test_the_fused_network_is_the_same_function_on_a_gpu() -> None:
    images = torch.rand(2, 3, 128, 128, device="cuda").contiguous(memory_format=torch.channels_last)
    for encoder, decoder in (("resnet18", "DeepLabV3Plus"), ("resnet18", "DeepLabV3"), ("efficientnet-b0", "Unet")):
        config = compose_config([f"encoder={encoder}", f"decoder={decoder}"])
        torch.manual_seed(0)
        plain = build_model(config).cuda().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fused = copy.deepcopy(plain)
        fuse(fused, device=torch.device("cuda"), triton=True)
        for dtype, tolerance in ((torch.float32, 1e-2), (torch.float16, 3e-2)):
            with torch.no_grad(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                torch.testing.assert_close(fused(images), plain(images), rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_starting_cuda_aside_draws_no_random_numbers(precision: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1), torch.rand(1, device="cuda").cpu()
    torch.manual_seed(0)
    with cuda_warming_up(compose_config([f"training.precision={precision}"])):
        pass
    assert (torch.rand(1), torch.rand(1, device="cuda").cpu()) == expected
    _use_cuda(DTYPES[precision])
