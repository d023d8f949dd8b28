"""From a run's directory to its network: the status and the weights are enough; no network, no pickle."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from trash_seg.config import Config, config_from_dict
from trash_seg.errors import ConfigError, UnsupportedPairError, UserError
from trash_seg.models.build import build_model, one_line
from trash_seg.rundir import RunDir


@dataclass(frozen=True)
class TrainedRun:
    """A run's network at its best epoch."""

    name: str
    config: Config
    model: nn.Module
    """On the CPU, in eval mode: (N, 3, S, S) float32 normalised → logits (N, C, S, S)."""
    epoch: int
    miou: float
    """Of the validation set, as the run recorded it."""
    num_threads: int | None = None
    """CPU threads that it was trained and validated with, where it says."""


def load_run(path: Path, *, allow_unfinished: bool = False) -> TrainedRun:
    """Loads `best.safetensors` into the network that the status describes.

    Args:
        path: The run's directory; it may have been copied from another machine.
        allow_unfinished: Take the best epoch so far of a run that is not done.

    Raises:
        UserError: No run, not done, another version's, or its weights are missing, damaged or of another network.
    """
    files = RunDir(path)
    status = _read_status(files)
    best = status.get("best")
    if status["state"] != "done" and not allow_unfinished:
        way_out = "--allow-unfinished uses its best epoch so far" if best else "train it first"
        raise UserError(f"{path}: this run is {status['state']}, not done; {way_out}")
    if not best or not files.best_path.exists():
        raise UserError(f"{files.best_path}: is not there; the run has no finished epoch, or was copied in part")
    try:
        config = config_from_dict(status["config"])
        from_scratch = dataclasses.replace(config.encoder, weights=None)
        model = build_model(dataclasses.replace(config, encoder=from_scratch))
    except (ConfigError, UnsupportedPairError) as error:
        version = status.get("environment", {}).get("trash_seg")
        raise UserError(
            f"{path}: this installation cannot build it (trained with trash_seg {version}): {error}"
        ) from error
    try:
        model.load_state_dict(safetensors.torch.load_file(files.best_path))
    except (SafetensorError, OSError, RuntimeError) as error:
        text = one_line(error)
        raise UserError(f"{files.best_path}: damaged, or of another network ({text:.300})") from error
    threads = status.get("environment", {}).get("num_threads")
    return TrainedRun(status["run"], config, model.eval(), best["epoch"], best["miou"], threads)


def _read_status(files: RunDir) -> dict[str, Any]:
    try:
        status = files.read_status()
    except (ValueError, OSError) as error:
        raise UserError(f"{files.path}: no run that can be read ({error})") from error
    if status is None:
        raise UserError(f"{files.path}: no run (it has no {files.status_path.name}); give outputs/<sweep>/<run>")
    return status
