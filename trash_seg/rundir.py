"""A run's directory: every file name, and how status and history are read and written.

Standard library only, so that the report and the sweeper read thousands of runs without importing torch.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

SCHEMA_VERSION = 1
STATES = ("running", "done", "failed", "interrupted", "diverged", "unsupported", "pruned")
METRICS = ("miou", "miou_image", "miou_batch")
HISTORY_COLUMNS = ("epoch", "train_loss", "val_loss", *METRICS, "lr", "train_seconds", "val_seconds")
TIME_COLUMNS = ("train_seconds", "val_seconds")
"""The only columns that two runs of one configuration on one CPU may differ in."""


class RunDir:
    """The files of one run. Nothing outside this class builds a path into a run's directory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.hydra_dir = self.path / ".hydra"
        self.status_path = self.path / "status.json"
        self.history_path = self.path / "history.csv"
        self.best_path = self.path / "best.safetensors"
        self.last_path = self.path / "last.ckpt"
        self.previous_path = self.path / "previous.ckpt"
        self.confusion_path = self.path / "confusion.npz"
        self.samples_path = self.path / "samples.npz"
        self.picture_path = self.path / "samples.png"
        self.log_path = self.path / "train.log"
        self.lock_path = self.path / "run.lock"
        self.tensorboard_dir = self.path / "tensorboard"

    @property
    def name(self) -> str:
        """`<encoder>-<decoder>-s<seed>-<hash>`."""
        return self.path.name

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from, be it whole or not."""
        return self.last_path.exists() or self.previous_path.exists()

    def read_status(self) -> dict[str, Any] | None:
        """The status, or None where there is none yet.

        Raises:
            ValueError: The file is not a status that this version can read; the message says why.
            OSError: It cannot be read.
        """
        try:
            status = json.loads(self.status_path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.status_path}: not JSON ({error})") from error
        if not isinstance(status, dict) or status.get("schema") != SCHEMA_VERSION:
            found = status.get("schema") if isinstance(status, dict) else type(status).__name__
            raise ValueError(f"{self.status_path}: schema {found}, this version reads {SCHEMA_VERSION}")
        if status.get("state") not in STATES:
            raise ValueError(f"{self.status_path}: state {status.get('state')!r} is none of {', '.join(STATES)}")
        return status

    def peek_status(self) -> dict[str, Any] | None:
        """The status, or None where there is none that can be read just now: for those who look again."""
        try:
            return self.read_status()
        except (OSError, ValueError):
            return None

    def remove_leftovers(self) -> None:
        """Removes what a killed writer left aside. Only for the holder of the run's lock."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replaces the status. NaN and infinity are refused: a number that does not exist is None."""
        text = json.dumps({"schema": SCHEMA_VERSION, **status}, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(self.status_path, text + "\n")

    def read_history(self) -> list[dict[str, str]]:
        """The rows as text, column → value; empty where there is no history yet.

        Raises:
            ValueError: A line is torn: it has too few or too many values.
        """
        try:
            text = self.history_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        rows = list(csv.DictReader(io.StringIO(text)))
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise ValueError(f"{self.history_path}: line {number} is torn")
        return rows

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the history by these rows, one an epoch; None is written as an empty value, floats exactly."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history_path, buffer.getvalue())


@contextmanager
def replacing(path: Path, *, previous: Path | None = None, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file written aside, and put in place at once at the end: the name never holds a part of a file.

    Args:
        path: Final name; its directory exists.
        previous: Where the file that is replaced goes, if it is to be kept.
        durable: It is to survive a power cut; takes a round trip to the disk.

    Yields:
        The open binary file. If the body raises, nothing is left under either name that was not there before.

    Raises:
        OSError: It cannot be written; `filename` is its final name where the system gives none.
    """
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_UMASK)
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(aside, path)
        if durable:
            _sync_directory(path.parent)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(aside)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """`replacing` for what one call writes."""
    with replacing(path) as file:
        write(file)


def _keep(path: Path, previous: Path) -> None:
    """Gives a file a second name, so that there is no moment without the first."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # a file system without hard links
        os.replace(path, previous)


def _sync_directory(path: Path) -> None:
    """A rename survives a power cut only once its directory is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically; what of a file's name is no UTF-8 is written as an escape, as JSON knows it."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
