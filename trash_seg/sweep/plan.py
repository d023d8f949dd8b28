"""What a sweep will do: each run that was asked for, its facts, and why it is left out or when it starts."""

import collections
import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trash_seg.config import Config
from trash_seg.models.pairs import Pair, PairFacts, facts, listed_weights
from trash_seg.rundir import RunDir, write_text
from trash_seg.sweep.cost import CostModel, Work, work_of

COLUMNS = (
    "run", "encoder", "decoder", "seed", "hash", "parameters", "gflops", "state", "reason", "predicted_seconds",
    "predicted_memory",
)  # fmt: skip
FAILED = ("failed", "diverged")
MAX_REASONS = 3
"""A summary lists no more reasons why pairs cannot be built."""


@dataclass
class PlannedRun:
    """One run of the grid."""

    config: Config
    overrides: list[str]
    """What makes this run by itself: `python -m trash_seg.train <overrides>`."""
    files: RunDir
    facts: PairFacts
    state: str = "new"
    """What its status says, `new` without one; `unsupported` also where SMP cannot build the pair."""
    reason: str | None = None
    """Why it is left out; None for a run that is to start."""
    predicted_seconds: float | None = None
    predicted_memory: float | None = None
    """Peak bytes."""
    failure: str | None = field(default=None, repr=False)
    """The error of an earlier attempt."""

    @cached_property
    def work(self) -> Work:
        """Its cost, where the network's size is known."""
        training = self.config.training
        parameters, gflops = self.facts.parameters or 0, self.facts.gflops or 0.0
        return Work(self.config.hash, training.epochs, training.batch_size, parameters, gflops)

    def has_ended(self, status: dict[str, Any] | None) -> bool:
        """Whether a status says that nothing is left to do here."""
        state, stop_epoch = (status or {}).get("state"), self.config.sweep.stop_epoch
        if state == "pruned":
            return stop_epoch is not None and status is not None and status["epoch"] >= stop_epoch
        return state in ("done", "unsupported", *FAILED)

    def row(self) -> dict[str, object]:
        """A line of plan.csv; what is not known is empty."""
        seconds, memory = self.predicted_seconds, self.predicted_memory
        values = (
            self.files.name, self.config.encoder.name, self.config.decoder.name, self.config.seed, self.work.hash,
            self.facts.parameters, self.facts.gflops, self.state, self.reason,
            None if seconds is None else round(seconds, 1), None if memory is None else round(memory),
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


@dataclass
class Plan:
    """All runs of a grid."""

    sweep_dir: Path
    runs: list[PlannedRun]
    templates: int = 0
    """Options like `encoder=timm` that a pattern matched and that name no model by themselves."""
    twice: int = 0
    """Jobs of the grid that are a run which was asked for already."""

    @property
    def to_run(self) -> list[PlannedRun]:
        """In the order of their start: longest first, so that no long run is left over at the end."""
        todo = [run for run in self.runs if run.reason is None]
        return sorted(todo, key=lambda run: -(run.predicted_seconds or run.work.units))

    def write(self) -> Path:
        """Writes plan.csv: runs in the order of their start, what is left out, and what earlier commands asked for."""
        path = self.sweep_dir / "plan.csv"
        here = {run.files.name for run in self.runs}
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(run.row() for run in self._ordered())
        writer.writerows(row for row in _read_rows(path) if row["run"] not in here)
        write_text(path, buffer.getvalue())
        return path

    def summary(self) -> list[str]:
        """What is left out, by count and reason, and what is left."""
        lines = [f"{self.sweep_dir}: {len(self.runs)} runs asked for"]
        if self.templates:
            lines.append(
                f"  {self.templates} left out: a template option names no model (encoder=timm encoder.name=tu-…)"
            )
        if self.twice:
            lines.append(f"  {self.twice} left out: the same run twice in the grid")
        counts = collections.Counter(_kind(run) for run in self.runs if run.reason is not None)
        lines += [f"  {count} left out: {kind}" for kind, count in counts.most_common()]
        unsupported = [run for run in self.runs if run.state == "unsupported"]
        reasons = {(run.config.decoder.name, run.reason) for run in unsupported}
        if len(reasons) <= MAX_REASONS:
            lines += [f"    {decoder}: {reason}" for decoder, reason in sorted(reasons, key=str)]
        else:
            decoders = collections.Counter(run.config.decoder.name for run in unsupported)
            by_decoder = ", ".join(f"{decoder} {count}" for decoder, count in decoders.most_common())
            lines.append(f"    {by_decoder}; plan.csv has each reason")
        todo = self.to_run
        seconds = [run.predicted_seconds for run in todo if run.predicted_seconds is not None]
        hours = f", about {sum(seconds) / 3600:.1f} h one after the other" if todo and len(seconds) == len(todo) else ""
        return [*lines, f"  {len(todo)} to run{hours}"]

    def table(self) -> Table:
        """The plan for the console."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("encoder", "decoder", "seed", "parameters", "GFLOPs", "state", "seconds", "memory", "left out"):
            table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=name != "left out")
        for run in self._ordered():
            table.add_row(
                run.config.encoder.name, run.config.decoder.name, str(run.config.seed),
                _shown(run.facts.parameters, 1e6, " M"), _shown(run.facts.gflops, 1, ""), run.state,
                _shown(run.predicted_seconds, 1, ""), _shown(run.predicted_memory, 1e9, " GB"), run.reason or "",
            )  # fmt: skip
        return table

    def show(self, console: Console) -> None:
        """Prints the table, as wide as it needs to be where lines do not wrap."""
        wide = console if console.is_terminal else Console(file=console.file, width=240)
        wide.print(self.table())

    def _ordered(self) -> list[PlannedRun]:
        return [*self.to_run, *(run for run in self.runs if run.reason is not None)]


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [row for row in csv.DictReader(io.StringIO(text)) if row.get("run")]


_NUMBERS = ("seed", "parameters", "GFLOPs", "seconds", "memory")


def make_plan(
    jobs: Iterable[tuple[Config, Sequence[str]]],
    *,
    sweep_dir: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Finds out what is to do.

    Args:
        jobs: Config and overrides of each job of the grid.
        sweep_dir: Holds the runs' directories.
        report: See `pairs.facts`.
    """
    plan = Plan(sweep_dir, [])
    unique: dict[str, tuple[Config, Sequence[str]]] = {}
    for config, overrides in jobs:
        name = config.run_id
        plan.twice += name in unique
        unique.setdefault(name, (config, overrides))
    known = _facts({name: config for name, (config, _) in unique.items()}, report)
    statuses = _statuses(sweep_dir, unique)
    for name, (config, overrides) in unique.items():
        run = PlannedRun(config, list(overrides), RunDir(sweep_dir / name), known[name])
        _settle(run, statuses.get(name))
        plan.runs.append(run)
    measured = [
        (work, status["seconds"], status.get("peak_memory_bytes"))
        for status in statuses.values()
        if isinstance(status, dict) and status["state"] == "done" and (work := work_of(status)) is not None
    ]
    model = CostModel(measured)
    for run in plan.runs:
        if run.facts.gflops is not None:
            run.predicted_seconds, run.predicted_memory = model.seconds(run.work), model.memory(run.work)
    return plan


def _facts(configs: dict[str, Config], report: Callable[[int, int], None]) -> dict[str, PairFacts]:
    """Run → facts, asked for together where classes and image size agree."""
    asked: dict[tuple[int, int, str], dict[str, Pair]] = {}
    for name, config in configs.items():
        pair = Pair(config.encoder.name, config.decoder.name, json.dumps(config.decoder.options, sort_keys=True))
        setting = (len(config.data.classes), config.training.image_size, config.runtime.cache_dir)
        asked.setdefault(setting, {})[name] = pair
    known: dict[str, PairFacts] = {}
    for (num_classes, image_size, cache_dir), pairs in asked.items():
        found = facts(
            pairs.values(), num_classes=num_classes, image_size=image_size, cache_dir=Path(cache_dir), report=report
        )
        known |= {name: found[pair] for name, pair in pairs.items()}
    return known


def _statuses(sweep_dir: Path, asked: Iterable[str]) -> dict[str, dict[str, Any] | str]:
    """Of the runs asked for and of others in the sweep; in place of one that cannot be read, why."""
    present = {path.name for path in sweep_dir.iterdir()} if sweep_dir.is_dir() else set()
    statuses: dict[str, dict[str, Any] | str] = {}
    for name in present:
        try:
            status = RunDir(sweep_dir / name).read_status()
        except NotADirectoryError:
            continue
        except (ValueError, OSError) as error:
            statuses[name] = str(error)
            continue
        if status is not None:
            statuses[name] = status
    return statuses


def _settle(run: PlannedRun, status: dict[str, Any] | str | None) -> None:
    """Decides whether a run starts. What it has done already counts before what it could not do."""
    config, known = run.config, run.facts
    if isinstance(status, dict):
        run.state, run.failure = status["state"], status["error"]
    limit, size = config.sweep.max_parameters, config.training.image_size
    if isinstance(status, str):
        run.state, run.reason = "unreadable", status
    elif run.state == "done":
        run.reason = "done"
    elif known.reason is not None or run.state == "unsupported":
        run.state, run.reason = "unsupported", known.reason or run.failure
    elif run.state in FAILED and not config.sweep.retry_failed and _had_root(status) == config.data.root:
        run.reason = f"{run.state} before (sweep.retry_failed=true runs it again): {run.failure}"
    elif limit is not None and known.parameters is not None and known.parameters > limit:
        run.reason = f"{known.parameters / 1e6:.1f} M parameters, sweep.max_parameters={limit:g}"
    elif known.gflops is None:
        run.reason = f"the network refuses training.image_size={size}"
    elif (listed := _unlisted(config)) is not None:
        run.reason = f"no {config.encoder.weights} weights for {config.encoder.name}, only {', '.join(listed)}"


def _had_root(status: dict[str, Any] | str | None) -> str | None:
    """The data folder that a run was given; with another one a failure need not come again."""
    data = status.get("config", {}).get("data", {}) if isinstance(status, dict) else {}
    root: str | None = data.get("root")
    return root


def _unlisted(config: Config) -> list[str] | None:
    """The weights that exist, where those asked for do not."""
    listed = listed_weights().get(config.encoder.name)
    return listed if listed is not None and config.encoder.weights not in (None, *listed) else None


def _kind(run: PlannedRun) -> str:
    """The reason without what differs from run to run."""
    reason = run.reason or ""
    if run.state == "unsupported":
        return "SMP cannot build them"
    if run.state in FAILED:
        return f"{run.state} before; sweep.retry_failed=true runs them again"
    if "parameters, " in reason:
        return f"more parameters than {reason.split(', ')[1]}"
    if reason.startswith("no "):
        return f"SMP lists no {run.config.encoder.weights} weights for the encoder"
    return reason


def _shown(value: float | None, unit: float, suffix: str) -> str:
    return "" if value is None else f"{value / unit:.1f}{suffix}"
