"""Hydra's view of `hydra/sweeper=grid` and `halving`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from trash_seg.sweep.grid import Schedule


class GridSweeper(Sweeper):
    """All pairs of a grid that can be built and are not done; see `trash_seg.sweep.grid`."""

    def __init__(self, params: Mapping[str, str] | None, dry_run: bool) -> None:
        self.params, self.dry_run = params or {}, dry_run

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Called by Hydra with the overrides of the command line."""
        from trash_seg.sweep.grid import sweep

        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        sweep(
            arguments=arguments,
            params={key: str(value) for key, value in self.params.items()},
            dry_run=self.dry_run,
            loader=self.hydra_context.config_loader,
            master=self.config,
            launcher=self.launcher,
            schedule=self.schedule(),
        )

    def schedule(self) -> "Schedule":
        """In which portions the runs are worked on."""
        from trash_seg.sweep.grid import AtOnce

        return AtOnce()


class HalvingSweeper(GridSweeper):
    """The grid by successive halving; see `trash_seg.sweep.halving`."""

    def __init__(self, params: Mapping[str, str] | None, dry_run: bool, first_epochs: int) -> None:
        super().__init__(params, dry_run)
        self.first_epochs = first_epochs

    def schedule(self) -> "Schedule":
        """A portion for each rung."""
        from trash_seg.sweep.halving import Halving

        return Halving(first_epochs=self.first_epochs)
