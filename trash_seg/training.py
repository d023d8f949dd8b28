"""Puts a training together: device, network, data, loop, pictures. What is cheap to find wrong comes first."""

import copy
import resource
from typing import Any, Protocol

import torch

from trash_seg.config import Config
from trash_seg.data.cache import num_cores
from trash_seg.data.dataset import Dataset, open_dataset
from trash_seg.data.loader import Loader
from trash_seg.engine.events import EventWriter
from trash_seg.engine.fit import Fit, Position
from trash_seg.engine.loss import build_loss
from trash_seg.engine.samples import write_samples
from trash_seg.engine.step import Step, build_optimizer, check_precision, choose_device
from trash_seg.errors import ConfigError
from trash_seg.models.build import build_model
from trash_seg.models.pairs import count_flops, count_parameters
from trash_seg.rundir import RunDir
from trash_seg.stop import StopRequest


class Notes(Protocol):
    """Who keeps the status of the run."""

    def note_start(self, *, device: str, num_threads: int, parameters: int, gflops: float | None) -> None:
        """The network is built."""

    def note_data(self, *, fingerprint: str, num_train: int, num_val: int, warnings: dict[str, int]) -> None:
        """The dataset is open."""

    def note_epoch(self, epoch: int, *, best: dict[str, Any], last: dict[str, Any], peak_memory_bytes: int) -> None:
        """An epoch is saved."""


def train(config: Config, files: RunDir, *, stop: StopRequest, notes: Notes, num_threads: int | None) -> None:
    """Trains from where the directory stands to the last epoch.

    Args:
        config: Every setting.
        files: The run's directory; its lock is held.
        stop: Looked at between steps.
        notes: Told of each stage.
        num_threads: Of the CPU; None takes torch's default.

    Raises:
        UnsupportedPairError, UserError, RunInterrupted, DivergedError, LockLostError: As their texts say.
    """
    device = choose_device(config.runtime.device)
    check_precision(config.training.precision, device)
    build_optimizer(config.optimizer, [torch.nn.Parameter(torch.zeros(1))])  # a wrong option is found before the data
    events = EventWriter(files.tensorboard_dir) if config.runtime.tensorboard else None
    torch.set_num_threads(num_threads or torch.get_num_threads())
    torch.use_deterministic_algorithms(config.training.deterministic)
    torch.manual_seed(config.seed)
    model = build_model(config)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    flops = count_flops(copy.deepcopy(model).to("meta").eval(), image_size=config.training.image_size)
    notes.note_start(
        device=device_name,
        num_threads=torch.get_num_threads(),
        parameters=count_parameters(model),
        gflops=None if flops is None else flops / 1e9,
    )
    dataset = open_dataset(config.data, image_size=config.training.image_size, runtime=config.runtime)
    notes.note_data(
        fingerprint=dataset.fingerprint,
        num_train=len(dataset.train.names),
        num_val=len(dataset.val.names),
        warnings=dataset.warnings,
    )
    train_loader, val_loader = _build_loaders(config, dataset, device)
    needs_pixels = config.loss.class_weights == "balanced"
    criterion = build_loss(config.loss, pixels=dataset.pixels if needs_pixels else None, device=device)
    step = Step(model, config=config, criterion=criterion, steps_per_epoch=train_loader.num_batches, device=device)

    def record(position: Position) -> None:
        assert position.best is not None and position.last is not None
        best = {key: value for key, value in position.best.items() if key not in ("counts", "weights")}
        notes.note_epoch(position.epoch, best=best, last=position.last, peak_memory_bytes=_peak_memory(device))
        if events is not None:
            events.write(position.history[-1])

    fit = Fit(
        step, config=config, train=train_loader, val=val_loader, classes=dataset.classes,
        val_names=dataset.val.names, run_dir=files, stop=stop, on_epoch=record,
    )  # fmt: skip
    record(fit.run())
    stop.raise_if_lock_lost()
    write_samples(files, step=step, split=dataset.val, config=config)
    files.previous_path.unlink(missing_ok=True)  # three times the network's size, and of no more use


def _build_loaders(config: Config, dataset: Dataset, device: torch.device) -> tuple[Loader, Loader]:
    batch_size = config.training.batch_size
    num_workers = config.runtime.num_workers
    if num_workers is None:
        num_workers = 0 if device.type == "cpu" else min(8, num_cores() - 1)
    train = Loader(
        dataset.train,
        batch_size=batch_size,
        seed=config.seed,
        augmentation=config.augmentation,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
    )
    if train.num_batches == 0:
        raise ConfigError(f"training.batch_size={batch_size}: {len(dataset.train.names)} training images fill no batch")
    return train, Loader(dataset.val, batch_size=batch_size, num_workers=num_workers)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device on CUDA, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
