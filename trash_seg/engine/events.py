"""TensorBoard event files, for those who watch: `tensorboard --logdir outputs`."""

from collections.abc import Mapping
from pathlib import Path

from trash_seg.errors import ConfigError


class EventWriter:
    """Writes each epoch's numbers as scalars.

    Raises:
        ConfigError: The tensorboard package is not installed.
    """

    def __init__(self, log_dir: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "runtime.tensorboard=true: the package is not installed; pip install 'trash_seg[tensorboard]'"
            ) from error
        self._open = SummaryWriter
        self._log_dir = log_dir

    def write(self, row: Mapping[str, float | None]) -> None:
        """Adds a history row. An epoch written again, as after a resume, replaces what stood there."""
        epoch = int(row["epoch"] or 0)
        with self._open(str(self._log_dir), purge_step=epoch) as writer:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    writer.add_scalar(name, value, epoch)
