"""Reads the run directories of a sweep and its plan. What cannot be read is kept, with the reason."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trash_seg.errors import UserError
from trash_seg.rundir import METRICS, RunDir

CURVES = (*METRICS, "train_loss", "val_loss")
RUN_NAME = re.compile(r"(?P<pair>.+)-s(?P<seed>\d+)-(?P<hash>[0-9a-f]{8})")
NUM_LOG_LINES = 15
LOG_BYTES = 16_384


class ReportError(UserError):
    """There is nothing to report on."""


@dataclass(frozen=True)
class Score:
    """What one epoch of a run reached; None where a number does not exist."""

    epoch: int
    miou: float
    miou_image: float | None
    miou_batch: float | None
    iou: dict[str, float | None]
    """Class → IoU."""


@dataclass(frozen=True)
class Run:
    """One run, as far as its directory or the plan tells."""

    name: str
    state: str
    """A state of rundir.STATES, or missing (planned, but there is no directory), left out (by the plan), unreadable."""
    encoder: str
    decoder: str
    weights: str | None = None
    hash: str = ""
    seed: int | None = None
    reason: str | None = None
    """Why it is not done, in one line."""
    directory: RunDir | None = None
    config: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    command: str | None = None
    parameters: int | None = None
    gflops: float | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    epoch: int = 0
    """Finished epochs."""
    epochs: int | None = None
    best: Score | None = None
    last: Score | None = None
    peak_memory_bytes: int | None = None
    hint: str | None = None
    traceback: str | None = None
    updated: str | None = None
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    """Column of CURVES → one value an epoch."""


def collect(sweep_dir: Path) -> list[Run]:
    """Every run under a sweep's directory and every run of its plan, by name.

    Raises:
        ReportError: The folder is missing, is no sweep, or holds neither runs nor a plan.
    """
    if not sweep_dir.is_dir():
        raise ReportError(f"{sweep_dir}: no such folder. Give the folder of a sweep, outputs/<sweep.name>")
    folders = sorted(path for path in sweep_dir.iterdir() if _is_run(path))
    runs = {path.name: read_run(path) for path in folders}
    for planned in read_plan(sweep_dir / "plan.csv"):
        found = runs.get(planned.name)
        runs[planned.name] = planned if found is None else _completed(found, planned)
    if not runs:
        raise ReportError(f"{sweep_dir}: holds no run directories{_hint(sweep_dir)}")
    return [runs[name] for name in sorted(runs)]


def _completed(run: Run, planned: Run) -> Run:
    """A run with what only the plan knows: the cost of the network, and what a damaged directory does not tell."""
    if run.state == "unreadable":
        return replace(planned, state=run.state, reason=run.reason, directory=run.directory)
    parameters = planned.parameters if run.parameters is None else run.parameters
    return replace(run, parameters=parameters, gflops=planned.gflops if run.gflops is None else run.gflops)


def _is_run(path: Path) -> bool:
    return path.is_dir() and (RUN_NAME.fullmatch(path.name) is not None or RunDir(path).status_path.exists())


def _hint(folder: Path) -> str:
    if RunDir(folder).status_path.exists():
        return f"; it is itself a run: give its parent, {folder.resolve().parent}"
    sweeps = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(map(_is_run, path.iterdir())))
    return f"; its sweeps are: {', '.join(sweeps[:10])}" if sweeps else ". Give outputs/<sweep.name>"


def read_run(path: Path) -> Run:
    """One run directory. Damage makes it `unreadable` with the reason, never an exception."""
    directory = RunDir(path)
    named = _from_name(path.name)
    try:
        status = directory.read_status()
        if status is None:
            return replace(named, directory=directory, state="unreadable", reason=f"no {directory.status_path.name}")
        run = _from_status(status, directory)
        return replace(run, curves=_curves(directory))
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{directory.status_path.name}: incomplete ({type(error).__name__}: {error})"
    except (ValueError, OSError) as error:
        reason = str(error).replace(f"{path}/", "")
    return replace(named, directory=directory, state="unreadable", reason=reason)


def _from_name(name: str) -> Run:
    """What a directory's name tells; encoder and decoder cannot always be told apart in it."""
    match = RUN_NAME.fullmatch(name)
    if match is None:
        return Run(name=name, state="unreadable", encoder=name, decoder="")
    encoder, _, decoder = match["pair"].rpartition("-")
    return Run(name, "unreadable", encoder, decoder, hash=match["hash"], seed=int(match["seed"]))


def _from_status(status: Mapping[str, Any], directory: RunDir) -> Run:
    config = status["config"]
    epochs = status.get("epochs")
    return Run(
        name=directory.name,
        state=str(status["state"]),
        encoder=str(config["encoder"]["name"]),
        decoder=str(config["decoder"]["name"]),
        weights=_text(config["encoder"].get("weights")),
        hash=str(status["hash"]),
        seed=int(status["seed"]),
        reason=_text(status.get("error")),
        directory=directory,
        config=dict(config),
        overrides=tuple(map(str, status.get("overrides") or ())),
        command=_text(status.get("command")),
        parameters=_int(status.get("parameters")),
        gflops=_float(status.get("gflops")),
        environment=dict(status.get("environment") or {}),
        data=dict(status.get("data") or {}),
        seconds=_float(status.get("seconds")),
        epoch=int(status.get("epoch") or 0),
        epochs=None if epochs is None else int(epochs),
        best=_score(status.get("best")),
        last=_score(status.get("last")),
        peak_memory_bytes=_int(status.get("peak_memory_bytes")),
        hint=_text(status.get("hint")),
        traceback=_text(status.get("traceback")),
        updated=_text(status.get("updated")),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _int(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)


def _float(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _score(values: Mapping[str, Any] | None) -> Score | None:
    if values is None:
        return None
    iou = {str(name): _float(value) for name, value in (values.get("iou") or {}).items()}
    miou_image, miou_batch = (_float(values.get(key)) for key in ("miou_image", "miou_batch"))
    return Score(int(values["epoch"]), float(values["miou"]), miou_image, miou_batch, iou)


def _curves(directory: RunDir) -> dict[str, list[float | None]]:
    rows = directory.read_history()
    try:
        return {column: [_float(row[column]) for row in rows] for column in CURVES} if rows else {}
    except KeyError as error:
        raise ValueError(f"{directory.history_path.name}: no column {error}") from error


def read_plan(path: Path) -> list[Run]:
    """The runs that a sweep was asked for; none where it left no plan.

    Raises:
        ReportError: The plan is there but cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [_from_plan(row) for row in rows]
    except FileNotFoundError:
        return []
    except (KeyError, ValueError, TypeError, OSError, csv.Error) as error:
        way_out = "Run the sweep again with hydra.sweeper.dry_run=true, or remove the file"
        raise ReportError(f"{path}: not a plan ({type(error).__name__}: {error}). {way_out}") from error


def _from_plan(row: Mapping[str, str]) -> Run:
    state, reason = row.get("state") or "", row.get("reason") or None
    if state != "unsupported":
        state = "left out" if state == "new" and reason is not None else "missing"
    return Run(
        name=row["run"],
        state=state,
        encoder=row["encoder"],
        decoder=row["decoder"],
        weights=row.get("weights") or None,
        hash=row.get("hash") or "",
        seed=_int(row.get("seed")),
        reason="planned, no run directory" if state == "missing" else reason,
        parameters=_int(row.get("parameters")),
        gflops=_float(row.get("gflops")),
    )


def last_lines(directory: RunDir) -> str:
    """The end of a run's log, to be shown; a sentence where there is none. Nothing is read out of it."""
    try:
        with directory.log_path.open("rb") as file:
            file.seek(max(0, directory.log_path.stat().st_size - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"({directory.log_path.name}: {error.strerror})"
    return "\n".join(lines[-NUM_LOG_LINES:])
