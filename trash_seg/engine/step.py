"""One training step and one validation step: samples, normalisation, precision, loss, optimizer, counts.

On CUDA each is one captured graph where that is possible (`runtime.step`). No host ever reads a value of the device in
a step: losses and counts stay there until the epoch ends.
"""

import copy
import itertools
import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trash_seg.config import Config, TrainingConfig
from trash_seg.engine.capture import Captured, find_obstacle
from trash_seg.engine.exact import ExactResampling
from trash_seg.engine.loss import Criterion
from trash_seg.engine.optimizer import build_optimizer, set_lr, start_momentum
from trash_seg.engine.precision import DTYPES, autocast, cast_weights
from trash_seg.engine.schedule import lr_factor
from trash_seg.errors import ConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]; every SMP encoder's imagenet weights expect them."""

Samples = Callable[..., tuple[Tensor, Tensor]]
"""Makes images (N, 3, H, W) and masks (N, H, W) of what a loader hands over; see `Loader.samples`."""

log = logging.getLogger(__name__)


class Normalize(nn.Module):
    """Images (N, 3, H, W) RGB in [0, 255] → float32, ImageNet mean and deviation; bit for bit as `A.Normalize` does."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - the class says it
        return (images.float() - self.mean) * self.scale


class Forward:
    """How images reach a network: placing, normalising and precision, in training and in prediction alike."""

    def __init__(self, training: TrainingConfig, *, device: torch.device, captured: bool = False) -> None:
        self.device = device
        self.memory_format = torch.channels_last if training.channels_last else torch.contiguous_format
        self.normalize = Normalize().to(device)
        self.autocast = partial(autocast, training, device)
        self.deterministic = training.deterministic
        self.dtype = DTYPES[training.precision]
        self.casts_together = captured and training.precision != "fp32"
        """Weights in half precision come from `cast_weights`: a graph is as long as it has launches."""
        self.whole_batches = device.type == "cuda"
        """Fill up what is evaluated: cuDNN takes seconds to plan for a new number of images, a batch milliseconds."""

    def place_model(self, model: nn.Module) -> nn.Module:
        """Moves the weights to the device, in the run's memory order."""
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def place(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 255] on any device → float32, normalised, on the device."""
        placed: Tensor = self.normalize(images.to(self.device, non_blocking=True))
        return placed.contiguous(memory_format=self.memory_format)

    def logits(self, model: nn.Module, placed: Tensor) -> Tensor:
        """(N, C, H, W) float32, of images that `place` has placed."""
        with self.autocast(), ExactResampling() if self.deterministic else nullcontext():
            weights = cast_weights(model, self.dtype) if self.casts_together else {}
            logits: Tensor = functional_call(model, weights, (placed,)) if weights else model(placed)
        return logits.float()


def as_given(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The `Samples` of a batch that holds images and masks."""
    return images, masks


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
        train_samples: Samples = as_given,
        val_samples: Samples = as_given,
        capture: bool = False,
    ) -> None:
        training = config.training
        self.device = device
        self.num_classes = len(config.data.classes)
        self.forward = Forward(training, device=device, captured=capture)
        self.model = self.forward.place_model(model)
        self.criterion = criterion
        self.batch_size = training.batch_size
        self.gradient_clip = training.gradient_clip
        self.train_samples, self.val_samples = train_samples, val_samples
        self.optimizer = build_optimizer(config.optimizer, model.parameters(), device=device)
        num_steps = training.epochs * steps_per_epoch
        self.lr_factor = partial(lr_factor, config.scheduler, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
        self.peak_lr = config.optimizer.lr
        self.num_done = 0
        """Training steps so far."""
        self.scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")
        self.scaler.scale(torch.zeros((), device=device))  # its state is made at the first use
        if self.scaler.is_enabled():
            start_momentum(self.optimizer)
        self.ema: nn.Module | None = None
        if training.ema_decay is not None:
            self.ema = copy.deepcopy(self.model).requires_grad_(False)
            self._move_average = get_ema_multi_avg_fn(training.ema_decay)  # type: ignore[no-untyped-call]
        self._train: Callable[..., tuple[Tensor, ...]] = self._train_eagerly
        self._validate: Callable[..., tuple[Tensor, ...]] = self._validate_eagerly
        if capture:
            required = config.runtime.step == "graph"
            changing = nn.ModuleList(part for part in (self.model, self.ema) if part is not None)
            self._train = Captured(
                self._train_eagerly, model=changing, optimizer=self.optimizer, scaler=self.scaler, required=required
            )
            self._validate = Captured(
                self._validate_eagerly, model=nn.ModuleList(), required=required,
                forget=lambda: self.evaluated.train().eval(),  # timm keeps attention biases until the next train()
            )  # fmt: skip

    @property
    def evaluated(self) -> nn.Module:
        """The network that validates and is kept: the moving average where there is one."""
        return self.model if self.ema is None else self.ema

    @property
    def lr(self) -> float:
        """The learning rate of the last training step."""
        return self.peak_lr * self.lr_factor(max(self.num_done - 1, 0))

    def train(self, *batch: Tensor) -> Tensor:
        """Samples, forward, loss, backward, update.

        Args:
            batch: As the training loader yields it; by itself, images (N, 3, H, W) uint8 RGB and masks (N, H, W) uint8
                class index, on any device.

        Returns:
            The loss before the update, a scalar float32 on the device.
        """
        self.num_done += 1
        set_lr(self.optimizer, self.lr)
        (loss,) = self._train(*self._placed(batch))
        if self.ema is not None and self.num_done == 1:  # it begins with what the first step gives
            self.ema.load_state_dict(self.model.state_dict())
        return loss

    def _train_eagerly(self, *batch: Tensor) -> tuple[Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        images, masks = self.train_samples(*batch)
        loss = self.criterion(self.forward.logits(self.model, self.forward.place(images)), masks.long())
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self._average(self.ema)
        return (loss.detach(),)

    @torch.no_grad()
    def _average(self, ema: nn.Module) -> None:
        """Moves the moving average of weights and BatchNorm's statistics on; counts are taken over."""
        averages, values = (itertools.chain(part.parameters(), part.buffers()) for part in (ema, self.model))
        pairs = list(zip(averages, values, strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._move_average([own for own, _ in floating], [other for _, other in floating], None)
        for own, other in pairs:
            if not own.is_floating_point():
                own.copy_(other)

    def validate(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and confusion counts of a batch of the validation loader; the network is in eval mode.

        Returns:
            The loss, a scalar float32; the counts (N, C, C) int64 by [image, truth, prediction]; both on the device.
        """
        loss, counts = self._validate(*self._placed(batch))
        return loss, counts

    @torch.no_grad()
    def _validate_eagerly(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        images, masks = self.val_samples(*batch)
        logits = self._logits(images)
        loss = self.criterion(logits, masks.long())
        return loss, count_confusion(masks.long(), logits.argmax(1), num_classes=self.num_classes)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Class index of each pixel: (N, 3, H, W) uint8 → (N, H, W) int64 on the device."""
        return self._logits(images).argmax(1)

    def _logits(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 of images (N, 3, H, W), by the network that is evaluated."""
        num = len(images)
        if self.forward.whole_batches and num < self.batch_size:
            images = images[torch.arange(self.batch_size, device=images.device).clamp(max=num - 1)]
        return self.forward.logits(self.evaluated, self.forward.place(images))[:num]

    def _placed(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)


def captures(config: Config, optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Whether steps are to be captured, as `runtime.step` says; where auto cannot, one line says why.

    Raises:
        ConfigError: `runtime.step=graph`, but this run cannot be captured.
    """
    obstacle = "there is no CUDA device" if device.type != "cuda" else find_obstacle(config, optimizer)
    if config.runtime.step == "graph" and obstacle is not None:
        raise ConfigError(f"runtime.step=graph: {obstacle}; runtime.step=auto goes on without")
    if config.runtime.step == "auto" and obstacle is not None and device.type == "cuda":
        log.info("step: eager, not one captured graph (%s)", obstacle)
    return config.runtime.step != "eager" and obstacle is None


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


def choose_device(name: str, *, setting: str = "runtime.device=") -> torch.device:
    """The device of `runtime.device`.

    Args:
        name: auto, cpu or cuda.
        setting: What the user gave it by.

    Raises:
        ConfigError: cuda is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{setting}cuda: torch sees no CUDA device; use cpu, or look at nvidia-smi")
    return torch.device(name)
