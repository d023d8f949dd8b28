"""One training step and one validation step: placement, normalisation, precision, loss, optimizer, counts.

No host ever reads a value of the device in a step: losses and counts stay there until the epoch ends.
"""

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trash_seg.config import Config, OptimizerConfig, TrainingConfig
from trash_seg.engine.loss import Criterion
from trash_seg.engine.schedule import lr_factor
from trash_seg.errors import ConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]; every SMP encoder's imagenet weights expect them."""

log = logging.getLogger(__name__)


class Normalize(nn.Module):
    """Images (N, 3, H, W) uint8 RGB → float32, ImageNet mean and deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - the class says it
        return (images.float() - self.mean) / self.std


class Forward:
    """How images reach a network: placing, normalising and precision, in training and in prediction alike."""

    def __init__(self, training: TrainingConfig, *, device: torch.device) -> None:
        self.device = device
        self.memory_format = torch.channels_last if training.channels_last else torch.contiguous_format
        self.normalize = Normalize().to(device)
        self.autocast = partial(_autocast, training, device)

    def place_model(self, model: nn.Module) -> nn.Module:
        """Moves the weights to the device, in the run's memory order."""
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def place(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB on any device → float32, normalised, on the device."""
        placed: Tensor = self.normalize(images.to(self.device, non_blocking=True))
        return placed.contiguous(memory_format=self.memory_format)

    def logits(self, model: nn.Module, placed: Tensor) -> Tensor:
        """(N, C, H, W) float32, of images that `place` has placed."""
        with self.autocast():
            logits: Tensor = model(placed)
        return logits.float()


class Step:
    """What a step changes: weights, optimizer, schedule, loss scale and the moving average."""

    def __init__(
        self,
        model: nn.Module,
        *,
        config: Config,
        criterion: Criterion,
        steps_per_epoch: int,
        device: torch.device,
    ) -> None:
        training = config.training
        self.device = device
        self.num_classes = len(config.data.classes)
        self.forward = Forward(training, device=device)
        self.model = self.forward.place_model(model)
        self.criterion = criterion
        self.gradient_clip = training.gradient_clip
        self.optimizer = build_optimizer(config.optimizer, model.parameters())
        num_steps = training.epochs * steps_per_epoch
        factor = partial(lr_factor, config.scheduler, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
        self.scheduler = LambdaLR(self.optimizer, factor)
        self.scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")
        self.ema: AveragedModel | None = None
        if training.ema_decay is not None:
            average = get_ema_multi_avg_fn(training.ema_decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    @property
    def evaluated(self) -> nn.Module:
        """The network that validates and is kept: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def lr(self) -> float:
        """The learning rate of the last training step."""
        return float(self.scheduler.base_lrs[0] * self.scheduler.lr_lambdas[0](self.scheduler.last_epoch - 1))

    def train(self, images: Tensor, masks: Tensor) -> Tensor:
        """Forward, loss, backward, update.

        Args:
            images: (N, 3, H, W) uint8 RGB, on any device.
            masks: (N, H, W) uint8 class index.

        Returns:
            The loss before the update, a scalar float32 on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self.model, *self._place(images, masks))[0]
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def validate(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and confusion counts of a batch; the network is in eval mode.

        Returns:
            The loss, a scalar float32; the counts (N, C, C) int64 by [image, truth, prediction]; both on the device.
        """
        images, masks = self._place(images, masks)
        loss, logits = self._loss(self.evaluated, images, masks)
        return loss, count_confusion(masks, logits.argmax(1), num_classes=self.num_classes)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Class index of each pixel: (N, 3, H, W) uint8 → (N, H, W) int64 on the device."""
        return self.forward.logits(self.evaluated, self.forward.place(images)).argmax(1)

    def _place(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward.place(images), masks.to(self.device, non_blocking=True).long()

    def _loss(self, model: nn.Module, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.forward.logits(model, images)
        return self.criterion(logits, masks), logits


def count_confusion(truth: Tensor, prediction: Tensor, *, num_classes: int) -> Tensor:
    """Confusion counts of each image.

    Integer adds, because `torch.bincount` makes the host wait for the device.

    Args:
        truth: (N, H, W) int64 in [0, C).
        prediction: Likewise.
        num_classes: C.

    Returns:
        (N, C, C) int64, pixels by [image, truth, prediction].
    """
    num_cells = num_classes**2
    image = torch.arange(len(truth), device=truth.device).view(-1, 1, 1)
    cell = (image * num_cells + truth * num_classes + prediction).flatten()
    counts = torch.zeros(len(truth) * num_cells, dtype=torch.int64, device=truth.device)
    return counts.scatter_add_(0, cell, torch.ones_like(cell)).view(-1, num_classes, num_classes)


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """`torch.optim.<name>` over the weights.

    Raises:
        ConfigError: torch has no such optimizer, or it refuses an option.
    """
    optimizer = getattr(torch.optim, config.name, None)
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise ConfigError(f"optimizer.name={config.name}: torch.optim has no such optimizer")
    try:
        return optimizer(
            parameters,
            lr=config.lr,
            weight_decay=config.weight_decay,
            **config.options,  # type: ignore[call-arg]
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.options={config.options}: {config.name} refuses them ({error})") from error


def choose_device(name: str) -> torch.device:
    """The device of `runtime.device`.

    Raises:
        ConfigError: cuda is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device=cuda: torch sees no CUDA device; use runtime=cpu, or look at nvidia-smi")
    return torch.device(name)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses fp16 on a CPU, and says so where a CPU only emulates bf16.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if device.type != "cpu":
        return
    if precision == "fp16":
        raise ConfigError("training.precision=fp16: needs a CUDA device; on a CPU use bf16 or fp32")
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        log.warning("training.precision=bf16: this processor has no bf16 instructions, so it will be slower than fp32")


def _autocast(training: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    if training.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if training.precision == "bf16" else torch.float16)
