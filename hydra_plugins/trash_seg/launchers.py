"""Hydra's view of `hydra/launcher=pool` and `slurm`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from trash_seg.sweep.plan import PlannedRun


class PoolLauncher(Launcher):
    """One process a job on this machine; see `trash_seg.sweep.pool`."""

    def __init__(self, num_jobs: int | None, jobs_per_gpu: int) -> None:
        self.num_jobs, self.jobs_per_gpu = num_jobs, jobs_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self.context, self.config = hydra_context, config

    def launch_runs(self, runs: Sequence["PlannedRun"]) -> bool:
        """Called by the sweepers with what they have planned. Returns False if it was stopped."""
        from trash_seg.sweep.pool import launch

        return launch(
            runs,
            context=self.context,
            master=self.config,
            num_jobs=self.num_jobs,
            jobs_per_gpu=self.jobs_per_gpu,
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by other sweepers."""
        raise NotImplementedError("hydra/launcher=pool works with hydra/sweeper=grid and halving")


class SlurmLauncher(Launcher):
    """A Slurm job array; see `trash_seg.sweep.slurm`."""

    def __init__(self, poll_seconds: float, **settings: Any) -> None:
        self.poll_seconds, self.settings = poll_seconds, settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self.context, self.config = hydra_context, config

    def launch_runs(self, runs: Sequence["PlannedRun"]) -> bool:
        """Called by the sweepers with what they have planned. Returns False if it was stopped."""
        from trash_seg.sweep.slurm import launch, plain

        return launch(
            runs,
            context=self.context,
            master=self.config,
            settings=plain(self.settings),
            poll_seconds=self.poll_seconds,
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by other sweepers."""
        raise NotImplementedError("hydra/launcher=slurm works with hydra/sweeper=grid and halving")
