"""Fixtures for all rooms: a cache of the tests' own, and the real command line."""

import atexit
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import rich

from tests.sweep.kill import kill_tree

ROOT = Path(__file__).parents[1]
TRASH190 = ROOT.parent / "shared" / "data" / "trash190"
PEER = ROOT.parent / "shared" / "peers" / "notebook_baseline.py"

# In the background of a shell or under nohup they are ignored, and would be by every command that a test signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
    signal.signal(number, signal.SIG_DFL)
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may need a network
if not any(Path("/dev", name).exists() for name in ("nvidiactl", "dxg", "kfd")):  # no GPU, not in WSL, not of AMD
    os.environ["TRITON_INTERPRET"] = "1"  # its kernels are computed on the CPU then; read when Triton is imported
hub = tempfile.TemporaryDirectory()
atexit.register(hub.cleanup)
os.environ["HF_HOME"] = hub.name  # nor find weights that somebody fetched before
# The user's own.
for name in ("TRASH_SEG_WEIGHTS_DIR", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "FORCE_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # torch looks at it once a process, for tests in deterministic mode
# torch reads it when it starts: processes side by side share the cores out. A worker inherits what its parent, which
# runs no test, has set here for itself.
if "PYTEST_XDIST_WORKER" in os.environ or "OMP_NUM_THREADS" not in os.environ:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) // workers, 1))

collect_ignore = [] if find_spec("triton") else ["models/test_kernels.py"]  # torch brings it on Linux alone
needs_trash190 = pytest.mark.skipif(not TRASH190.exists(), reason=f"{TRASH190} is not there")

TINY = (
    "training.epochs=2", "training.image_size=32", "runtime.device=cpu", "runtime.num_threads=1",
    "runtime.checkpoint_seconds=600",
)  # fmt: skip
"""Settings of a run of seconds, which is bit-equal each time."""


@dataclass(frozen=True)
class Completed:
    """How a command ended."""

    code: int
    output: str


Train = Callable[..., Completed]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests first: at the end no worker waits minutes for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("slurm")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all tests, so that the toy dataset is drawn once; nothing is left in the user's own."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # its folder lies in the one that all workers share
    shared = tmp_path_factory.getbasetemp().parent if is_worker else tmp_path_factory.getbasetemp()
    path = shared / "cache"
    path.mkdir(exist_ok=True)
    os.environ["TRASH_SEG_CACHE_DIR"] = str(path)
    yield path
    del os.environ["TRASH_SEG_CACHE_DIR"]


STARTED: list[subprocess.Popen[str]] = []


def start_process(command: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
    """A process whose output can be read, errors included. It does not outlive its test."""
    options = {"env": command_environment(), **options}
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    """What a failed test leaves would take cores, and its open pipe would be a warning, from another."""
    yield
    end_processes()


def end_processes() -> None:
    """Whatever `start_process` has started, and what that has started."""
    while STARTED:
        with STARTED.pop() as process:  # closes its pipe
            if process.poll() is None:
                kill_tree(process.pid)


def run_module(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m <module> <arguments>` in a folder, as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, env=command_environment(), text=True, capture_output=True
    )


@contextmanager
def memory_for(num_bytes: int) -> Iterator[None]:
    """This process gets so much more memory and no byte beyond."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def command_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def widen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console of 200 columns, whatever the one that an earlier test has left in this process was like."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(rich, "_console", None)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """`python -m trash_seg.train` in an empty folder, without the seconds that a new process takes to import torch."""
    from trash_seg.train import main

    def run(*arguments: str) -> Completed:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        widen(monkeypatch)
        try:
            code = main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        captured = capsys.readouterr()
        return Completed(code, captured.out + captured.err)

    return run


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one tiny run was trained to its end."""
    cwd = tmp_path_factory.mktemp("finished")
    completed = run_module("trash_seg.train", *TINY, cwd=cwd)
    assert completed.returncode == 0, completed.stderr
    return cwd


@pytest.fixture(scope="session")
def finished_run(finished_sweep: Path) -> Path:
    """The directory of that run."""
    (path,) = (finished_sweep / "outputs" / "default").glob("resnet18-Unet-s21-*")
    return path
