"""The grid sweeper: from Hydra's sweep syntax to a plan, to a launcher, to a summary."""

import itertools
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue
from rich import get_console

from trash_seg.config import OUTSIDE_IDENTITY, Config, register
from trash_seg.errors import ConfigError, UserError
from trash_seg.sweep.checks import check_optimizers
from trash_seg.sweep.compose import Composer
from trash_seg.sweep.plan import FAILED, Plan, PlannedRun, make_plan


@runtime_checkable
class PlanLauncher(Protocol):
    """A launcher that takes planned runs; others get their overrides."""

    def launch_runs(self, runs: Sequence[PlannedRun]) -> bool:
        """Works on the runs until each has ended; False if it was asked to stop before."""


Launch = Callable[[Sequence[PlannedRun]], bool]
"""Works on runs until each has ended; False if it was asked to stop before."""


class Schedule(Protocol):
    """In which portions a plan is worked on."""

    dropped: set[str]
    """Names of the runs that are not to go on."""

    def describe(self, plan: Plan) -> list[str]:
        """Lines that follow the plan's summary.

        Raises:
            ConfigError: The plan does not suit this schedule.
        """

    def work(self, plan: Plan, launch: Launch) -> None:
        """Launches the plan's runs."""


class AtOnce:
    """All runs in one portion."""

    def __init__(self) -> None:
        self.dropped: set[str] = set()

    def describe(self, plan: Plan) -> list[str]:
        """Nothing more to say."""
        return []

    def work(self, plan: Plan, launch: Launch) -> None:
        """See `Schedule`."""
        launch(plan.to_run)


def sweep(
    *,
    arguments: Sequence[str],
    params: dict[str, str],
    dry_run: bool,
    loader: ConfigLoader,
    master: DictConfig,
    launcher: Launcher,
    schedule: Schedule,
) -> None:
    """Runs what is left of a grid.

    Args:
        arguments: Overrides of the command line.
        params: `hydra.sweeper.params`; the command line stands above them.
        dry_run: Show the plan and train nothing.
        loader: Hydra's.
        master: The config composed without the sweep.
        launcher: Works on the runs.
        schedule: In which portions.

    Raises:
        UserError: The grid is empty, contradicts itself, or cannot be planned.
        SystemExit: A run failed (1) or was interrupted (75).
    """
    register()
    console = get_console()
    jobs = expand(arguments, params=params, loader=loader)
    plan = _plan(jobs, loader=loader, master=master)
    path = _write(plan)
    if dry_run:
        plan.show(console)
    lines = [*plan.summary(), *schedule.describe(plan)]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    if dry_run:
        console.print(f"plan: {path}", soft_wrap=True, highlight=False)
        return

    def launch(runs: Sequence[PlannedRun]) -> bool:
        if runs and isinstance(launcher, PlanLauncher):
            return launcher.launch_runs(runs)
        if runs:
            launcher.launch([run.overrides for run in runs], initial_job_idx=0)
        return True

    try:
        schedule.work(plan, launch)
    except KeyboardInterrupt:
        console.print("stopped")
    exit_code = summarise(plan.runs, schedule.dropped)
    write_report(plan.sweep_dir)
    if exit_code:
        sys.exit(exit_code)


def expand(arguments: Sequence[str], *, params: dict[str, str], loader: ConfigLoader) -> list[list[str]]:
    """The overrides of each job: the product of all values of all sweeps.

    Raises:
        ConfigError: A sweep's key stands twice or makes no other run, or a sweep has no value.
    """
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(list(arguments))
    keys = [override.get_key_element() for override in given]
    for override in given:
        if override.is_sweep_override() and any(
            f"{override.key_or_group}.".startswith(f"{path}.") for path in OUTSIDE_IDENTITY
        ):
            text = "is no part of what a run is, so its values would be the same run; give one"
            raise ConfigError(f"{override.input_line}: {text}")
        if override.is_sweep_override() and keys.count(override.get_key_element()) > 1:
            both = " and ".join(str(o.input_line) for o in given if o.get_key_element() == override.get_key_element())
            raise ConfigError(f"{override.key_or_group} is given twice: {both}")
    defaults = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    overrides = [override for override in defaults if override.get_key_element() not in keys] + given
    return [list(job) for job in itertools.product(*(_values(override, loader) for override in overrides))]


def _values(override: Override, loader: ConfigLoader) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: a grid needs values; an interval has none of its own")
    values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not values:
        options = loader.get_group_options(override.key_or_group)
        known = f"there are {', '.join(options)}" if options else f"{override.key_or_group} is no config group"
        pattern = isinstance(override._value, Glob)
        raise ConfigError(f"{override.input_line}: " + (f"matches nothing; {known}" if pattern else "has no value"))
    return values


def _plan(jobs: list[list[str]], *, loader: ConfigLoader, master: DictConfig) -> Plan:
    console = get_console()
    configs = Composer(loader, master).all(jobs)
    named = [(config, job) for config, job in zip(configs, jobs, strict=True) if isinstance(config, Config)]
    missing = [error for error in configs if isinstance(error, MissingMandatoryValue)]
    if wrong := [error for error in missing if error.full_key != "encoder.name"]:
        raise wrong[0]
    if not named:
        raise missing[0]
    check_optimizers([config.optimizer for config, _ in named])

    def report(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            console.print(f"{done} of {total} networks measured (parameters, FLOPs)", highlight=False)

    sweep_dir = Path(str(master.hydra.sweep.dir))
    plan = make_plan(named, sweep_dir=sweep_dir, report=report)
    plan.templates = len(jobs) - len(named)
    return plan


def _write(plan: Plan) -> Path:
    try:
        plan.sweep_dir.mkdir(parents=True, exist_ok=True)
        return plan.write()
    except OSError as error:
        raise UserError(
            f"{plan.sweep_dir}: cannot be written ({error.strerror}); sweep.name chooses the folder"
        ) from error


def summarise(runs: Sequence[PlannedRun], dropped: Collection[str]) -> int:
    """Says how the sweep stands: a line for each failed run. Returns the exit code of the process.

    Args:
        runs: Of the plan.
        dropped: Names of those that are not to go on.
    """
    console = get_console()
    states = {run.files.name: _status(run) for run in runs if run.state != "unsupported"}
    failed = {name: status for name, status in states.items() if status.get("state") in FAILED}
    left = [run for run in runs if run.reason is None and run.files.name not in dropped]
    open_runs = [run for run in left if not run.has_ended(states[run.files.name])]
    lines = [
        f"{status['state']}: {run.files.name}: {status['error']} ({status['hint']})"
        for run in open_runs
        if (status := states[run.files.name]).get("hint")
    ]
    for name, status in failed.items():
        hint = f" ({status['hint']})" if status.get("hint") else ""
        lines += [f"{status['state']}: {name}: {status['error']}{hint}", f"    again: {status['command']}"]
    done = sum(status.get("state") == "done" for status in states.values())
    counts = [f"{done} done", *([f"{len(dropped)} pruned"] if dropped else []), f"{len(failed)} failed"]
    lines.append(f"{', '.join(counts)}, {len(open_runs)} not finished")
    command = ["python", "-m", "trash_seg.train", *sys.argv[1:]]
    if open_runs:
        lines.append(f"this goes on: {shlex.join(command)}")
    elif failed:
        others = [word for word in command if not word.startswith("sweep.retry_failed=")]
        lines.append(f"all that failed again: {shlex.join([*others, 'sweep.retry_failed=true'])}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return 75 if open_runs else 1 if failed else 0


def _status(run: PlannedRun) -> dict[str, Any]:
    try:
        return run.files.read_status() or {}
    except (ValueError, OSError) as error:
        return {"state": "failed", "error": str(error), "command": "move the directory away first"}


def write_report(sweep_dir: Path) -> None:
    """The leaderboard of what there is, in a process of its own: a report that fails fails no sweep."""
    command = [sys.executable, "-m", "trash_seg.report", str(sweep_dir)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (answer.stdout if answer.returncode == 0 else answer.stderr).strip().splitlines()
    page = sweep_dir / "report.html"
    if answer.returncode == 0:
        print(f"report: {page}")
    else:
        print(f"no report: {lines[-1] if lines else answer.returncode} ({shlex.join(command[1:])})", file=sys.stderr)
