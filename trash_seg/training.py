"""Puts a training together: device, network, data, loop, pictures. What is cheap to find wrong comes first."""

import copy
import logging
import os
import resource
from typing import Any, Protocol

import torch

from trash_seg.config import Config, TrainingConfig
from trash_seg.data.dataset import Dataset, open_dataset
from trash_seg.data.device import DeviceLoader, num_bytes, runs_on_device
from trash_seg.data.loader import Loader
from trash_seg.engine.allocator import keep_freed_memory
from trash_seg.engine.events import EventWriter
from trash_seg.engine.fit import Fit, Position, Row
from trash_seg.engine.loss import build_loss
from trash_seg.engine.optimizer import build_optimizer
from trash_seg.engine.precision import check_precision
from trash_seg.engine.samples import write_samples
from trash_seg.engine.step import Step, captures, choose_device
from trash_seg.errors import ConfigError
from trash_seg.models.build import build_model, check_forward
from trash_seg.models.fuse import fuse
from trash_seg.models.pairs import count_flops, count_parameters
from trash_seg.rundir import RunDir
from trash_seg.stop import StopRequest

DEVICE_SHARE = 0.5
"""Of the device's free memory that samples may take; the rest is the network's."""

log = logging.getLogger(__name__)


class Notes(Protocol):
    """Who keeps the status of the run."""

    def note_start(self, *, device: str, num_threads: int, parameters: int, gflops: float | None) -> None:
        """The network is built."""

    def note_data(self, *, fingerprint: str, num_train: int, num_val: int, warnings: dict[str, int]) -> None:
        """The dataset is open."""

    def note_epoch(self, epoch: int, *, best: dict[str, Any], last: dict[str, Any], peak_memory_bytes: int) -> None:
        """An epoch is saved."""


def train(config: Config, files: RunDir, *, stop: StopRequest, notes: Notes, num_threads: int | None) -> None:
    """Trains from where the directory stands to the last epoch, or to `sweep.stop_epoch`.

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
    weight = torch.nn.Parameter(torch.zeros(1, device=device))
    capture = captures(config, build_optimizer(config.optimizer, [weight], device=device), device)
    events = EventWriter(files.tensorboard_dir) if config.runtime.tensorboard else None
    torch.set_num_threads(num_threads or torch.get_num_threads())
    make_deterministic(config.training.deterministic)
    torch.manual_seed(config.seed)
    model = build_model(config)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    flops = count_flops(copy.deepcopy(model).to("meta").eval(), image_size=config.training.image_size)
    if flops is None:
        check_forward(model, image_size=config.training.image_size)
    notes.note_start(
        device=device_name,
        num_threads=torch.get_num_threads(),
        parameters=count_parameters(model),
        gflops=None if flops is None else flops / 1e9,
    )
    if device.type == "cpu":
        keep_freed_memory()
    fuse(model, device=device, triton=takes_triton(config.training, captured=capture))
    dataset = open_dataset(config.data, image_size=config.training.image_size, runtime=config.runtime)
    notes.note_data(
        fingerprint=dataset.fingerprint,
        num_train=len(dataset.train.names),
        num_val=len(dataset.val.names),
        warnings=dataset.warnings,
    )
    train_loader, val_loader = build_loaders(config, dataset, device)
    needs_pixels = config.loss.class_weights == "balanced"
    criterion = build_loss(
        config.loss, pixels=dataset.pixels if needs_pixels else None, device=device,
        deterministic=config.training.deterministic,
    )  # fmt: skip
    step = Step(
        model, config=config, criterion=criterion, steps_per_epoch=train_loader.num_batches, device=device,
        train_samples=train_loader.samples, val_samples=val_loader.samples,
        capture=capture,
    )  # fmt: skip

    def record(position: Position, new_rows: list[Row]) -> None:
        assert position.best is not None and position.last is not None
        best = {key: value for key, value in position.best.items() if key not in ("counts", "weights")}
        notes.note_epoch(position.epoch, best=best, last=position.last, peak_memory_bytes=_peak_memory(device))
        if events is not None:
            for row in new_rows:
                events.write(row)

    fit = Fit(
        step, config=config, train=train_loader, val=val_loader, classes=dataset.classes,
        val_names=dataset.val.names, run_dir=files, stop=stop, on_save=record,
    )  # fmt: skip
    record(fit.run(), [])
    if fit.position.epoch < config.training.epochs:
        return
    stop.raise_if_lock_lost()
    write_samples(files, step=step, split=dataset.val, config=config)
    files.previous_path.unlink(missing_ok=True)  # three times the network's size, and of no more use


def takes_triton(training: TrainingConfig, *, captured: bool) -> bool:
    """Whether a network is to have Triton's kernels: they save the device's time, but cost the host's, step by step.

    In deterministic mode an eager run has them too, and equals the captured one to the last bit.
    """
    return training.channels_last and (captured or training.deterministic)


def make_deterministic(asked: bool) -> None:
    """Bit-equal reruns on CUDA: torch refuses what has no fixed order of sums."""
    if asked:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(asked)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a guard for debugging, which costs a pass each


def build_loaders(config: Config, dataset: Dataset, device: torch.device) -> tuple[Loader, Loader]:
    """Of the training and the validation split; on CUDA they deal from the device's memory where the splits fit.

    Raises:
        ConfigError: The training split does not fill a batch.
    """
    batch_size = config.training.batch_size
    if len(dataset.train.names) < batch_size:
        num = len(dataset.train.names)
        raise ConfigError(f"training.batch_size={batch_size}: {num} training images fill no batch; give at most {num}")
    training: dict[str, Any] = {"seed": config.seed, "augmentation": config.augmentation}
    training |= {"shuffle": True, "drop_last": True}
    num_workers = config.runtime.num_workers
    if num_workers is None:
        num_workers = 0 if device.type == "cpu" else min(8, max(torch.get_num_threads() - 1, 1))  # of the job's share
    host: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
    if device.type == "cpu":
        return Loader(dataset.train, **training, **host), Loader(dataset.val, **host)
    needed, free = num_bytes(dataset.train, dataset.val), torch.cuda.mem_get_info(device)[0]
    there: dict[str, Any] = {**host, "device": device, "resident": needed < DEVICE_SHARE * free}
    if not there["resident"]:
        log.info(
            "the samples take %.1f of %.1f GB free on the device: %d workers bring them",
            needed / 1e9,
            free / 1e9,
            num_workers,
        )
    if not runs_on_device(config.augmentation):
        log.info("augmentation=%s: made by %d workers on the CPU", config.augmentation.name, num_workers)
        return Loader(dataset.train, **training, **host), DeviceLoader(dataset.val, **there)
    return DeviceLoader(dataset.train, **training, **there), DeviceLoader(dataset.val, **there)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device on CUDA, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
