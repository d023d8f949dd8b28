"""One run through the real command line: what it leaves, how it goes on, what bad input gets."""

import dataclasses
import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from filelock import SoftFileLease

from tests.conftest import TINY, Completed, Train, command_environment, memory_for, start_process
from trash_seg.attempt import Attempt
from trash_seg.engine import fit
from trash_seg.job import LEASE_SECONDS
from trash_seg.rundir import METRICS, TIME_COLUMNS, RunDir

GOLDEN = Path(__file__).parent / "golden_history.csv"


def history(run: Path) -> list[dict[str, str]]:
    """Without the times, which no two runs share."""
    return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in RunDir(run).read_history()]


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = (safetensors.torch.load_file(RunDir(path).best_path) for path in (a, b))
    return all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def only_run(folder: Path) -> Path:
    (path,) = (folder / "outputs" / "default").iterdir()
    return path


def test_a_run_leaves_everything_that_the_contract_names(finished_run: Path) -> None:
    files = RunDir(finished_run)
    status = files.read_status()
    assert status is not None
    assert status["state"] == "done"
    assert status["epoch"] == status["epochs"] == 2
    assert status["parameters"] == 14_329_804
    assert 0.1 < status["gflops"] < 0.5  # of one image of 32 × 32
    assert status["command"].startswith("python -m trash_seg.train training.epochs=2")
    assert status["environment"]["num_threads"] == 1
    assert status["config"]["encoder"] == {"name": "resnet18", "weights": None}
    rows = files.read_history()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = max(rows, key=lambda row: float(row["miou"]))
    assert status["best"]["miou"] == float(best["miou"])
    assert f"{status['best']['epoch']}" == best["epoch"]
    with np.load(files.confusion_path) as confusion:
        num_val, num_classes = status["data"]["num_val"], len(status["config"]["data"]["classes"])
        assert confusion["counts"].shape == (num_val, num_classes, num_classes)
        assert (confusion["counts"].sum((1, 2)) == 32 * 32).all()
        assert len(confusion["images"]) == num_val
    assert safetensors.torch.load_file(files.best_path)
    for path in (files.last_path, files.picture_path, files.samples_path, files.log_path):
        assert path.stat().st_size > 0
    assert (files.hydra_dir / "config.yaml").exists()


def test_golden_history(finished_run: Path) -> None:
    """Moves only when the training itself changes; the tolerance is for other processors and torch versions."""
    ours, golden = history(finished_run), RunDir(GOLDEN.parent)
    golden.history_path = GOLDEN
    for row, expected in zip(ours, golden.read_history(), strict=True):
        assert row.keys() == expected.keys() - set(TIME_COLUMNS)
        for column in ("train_loss", "val_loss", "lr"):
            assert float(row[column]) == pytest.approx(float(expected[column]), rel=1e-3), column
        for column in METRICS:
            assert float(row[column]) == pytest.approx(float(expected[column]), abs=5e-3), column


def test_the_same_command_finds_its_finished_run(train: Train, finished_sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_sweep / "outputs", tmp_path / "outputs")
    before = RunDir(only_run(tmp_path)).last_path.stat().st_mtime_ns
    again = train(*TINY)
    assert again.code == 0
    assert "done already: mIoU" in again.output
    assert str(RunDir(only_run(tmp_path)).picture_path.relative_to(tmp_path)) in again.output
    assert RunDir(only_run(tmp_path)).last_path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_what_is_kept_is_of_the_best_epoch(
    train: Train, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three; of the same run that ends with it, files and weights are the same. Also after a resume."""
    scores, true_score = iter((0.3, 0.5, 0.4)), fit.score
    monkeypatch.setattr(fit, "score", lambda *a, **k: dataclasses.replace(true_score(*a, **k), miou=next(scores)))
    assert train(*TINY, "training.epochs=3", "sweep.stop_epoch=2").code == 0
    assert train(*TINY, "training.epochs=3").code == 0
    files, wanted = RunDir(only_run(tmp_path)), RunDir(finished_run)
    status = files.read_status()
    assert (status["best"]["epoch"], status["best"]["miou"]) == (2, 0.5)
    assert (status["last"]["epoch"], status["last"]["miou"]) == (3, 0.4)
    assert same_weights(files.path, wanted.path)
    for path, other in ((files.confusion_path, wanted.confusion_path), (files.samples_path, wanted.samples_path)):
        with np.load(path) as ours, np.load(other) as theirs:
            assert ours.files == theirs.files
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours.files)


@pytest.mark.slow
def test_runtime_changes_no_bit(train: Train, tmp_path: Path) -> None:
    """With a decoder that has dropout: workers and checkpoints must leave its stream of random numbers alone."""
    dropout = ["decoder=FPN", "training.epochs=1"]
    assert train(*TINY, *dropout, "sweep.name=plain").code == 0
    others = ["runtime=cpu", "runtime.cache=false", "runtime.num_workers=2", "runtime.checkpoint_seconds=1e-9"]
    others += ["runtime.tensorboard=true"]
    assert train(*TINY[1:3], *dropout, *others, "runtime.step=eager", "sweep.name=others").code == 0
    (plain,), (changed,) = ((tmp_path / "outputs" / name).iterdir() for name in ("plain", "others"))
    assert history(changed) == history(plain)
    assert same_weights(changed, plain)
    (events,) = RunDir(changed).tensorboard_dir.iterdir()
    assert b"miou_image" in events.read_bytes()


PATIENT = Path(__file__).with_name("patient.py")


def start(cwd: Path, *arguments: str, script: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, *([script] if script else ["-m", "trash_seg.train"]), *arguments]
    return start_process(command, cwd=cwd)


def wait_for_checkpoints(process: subprocess.Popen[str], cwd: Path, number: int) -> None:
    """Until that many checkpoints were written (each is a file of its own, put in place of the one before)."""
    seen: set[int] = set()
    while len(seen) < number:
        assert process.poll() is None, process.communicate()
        with suppress(FileNotFoundError):  # between two renames
            for path in (cwd / "outputs" / "default").glob("*/last.ckpt"):
                seen.add(path.stat().st_mtime_ns)
        time.sleep(0.005)  # leave the processor to the run


@pytest.mark.slow
def test_killed_in_mid_epoch_it_goes_on_bit_for_bit(train: Train, tmp_path: Path) -> None:
    """With dropout and workers, whose random numbers a resume must find again."""
    dropout = ["decoder=FPN", "runtime.num_workers=1"]
    assert train(*TINY, *dropout, "sweep.name=unbroken").code == 0
    (unbroken,) = (tmp_path / "outputs" / "unbroken").iterdir()
    for number in (3, 9):
        process = start(tmp_path, *TINY[:-1], *dropout, "runtime.checkpoint_seconds=1e-9")
        wait_for_checkpoints(process, tmp_path, number)
        process.kill()
        process.communicate()
        assert RunDir(only_run(tmp_path)).read_status()["state"] == "running"  # nobody could say otherwise
    finish = train(*TINY, *dropout)
    assert "continuing after epoch" in finish.output
    assert history(only_run(tmp_path)) == history(unbroken)
    assert same_weights(only_run(tmp_path), unbroken)
    assert not list(only_run(tmp_path).glob(".*.tmp"))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)),
    ],
)
def test_asked_to_stop_it_saves_and_says_so(
    train: Train, finished_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, *TINY, script=PATIENT)
    wait_for_checkpoints(process, tmp_path, 1)
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == 75
    assert f"interrupted ({number.name}); the same command goes on" in output
    status = RunDir(only_run(tmp_path)).read_status()
    assert (status["state"], status["epoch"]) == ("interrupted", 1)
    assert train(*TINY).code == 0
    assert history(only_run(tmp_path)) == history(finished_run)
    assert same_weights(only_run(tmp_path), finished_run)


@pytest.mark.slow
def test_a_run_whose_terminal_closes_saves(tmp_path: Path) -> None:
    terminal, command = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, PATIENT, *TINY], cwd=tmp_path, env=command_environment(), stdin=command,
        stdout=command, stderr=command, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(command)
    shown = b""
    while b"epoch 1/2  train loss" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert process.wait() == 75
    status = RunDir(only_run(tmp_path)).read_status()
    assert (status["state"], status["error"], status["traceback"]) == ("interrupted", "SIGHUP", None)
    assert RunDir(only_run(tmp_path)).has_checkpoint()


def test_what_breaks_after_a_signal_is_an_interruption(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(attempt: Attempt) -> None:
        attempt.stop.waits = True
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker is killed")

    monkeypatch.setattr(Attempt, "train", break_down)
    completed = train(*TINY)
    assert completed.code == 75
    assert "interrupted (SIGTERM), not saved (DataLoader worker is killed)" in completed.output
    assert RunDir(only_run(tmp_path)).read_status()["state"] == "interrupted"


def unfinish(run: Path) -> RunDir:
    """As if the process had been killed right after its last checkpoint."""
    files = RunDir(run)
    status = files.read_status()
    files.write_status({**status, "state": "running"})
    return files


def flip_one_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.fixture(scope="session")
def killed_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed in its first epoch, with two checkpoints."""
    cwd = tmp_path_factory.mktemp("killed")
    process = start(cwd, *TINY[:-1], "runtime.checkpoint_seconds=1e-9")
    wait_for_checkpoints(process, cwd, 3)
    process.kill()
    process.communicate()
    return cwd


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: b"", flip_one_bit], ids=["cut", "empty", "bit"]
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(
    train: Train, killed_sweep: Path, finished_run: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    shutil.copytree(killed_sweep / "outputs", tmp_path / "outputs")
    files = RunDir(only_run(tmp_path))
    files.last_path.write_bytes(damage(files.last_path.read_bytes()))
    again = train(*TINY)
    assert again.code == 0
    assert "last.ckpt is damaged" in again.output
    assert "continuing after epoch 0, step" in again.output
    assert history(only_run(tmp_path)) == history(finished_run)
    assert same_weights(only_run(tmp_path), finished_run)
    assert not files.previous_path.exists()  # of no more use once the run is done


def test_without_a_whole_checkpoint_it_starts_anew(
    train: Train, killed_sweep: Path, finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed_sweep / "outputs", tmp_path / "outputs")
    files = RunDir(only_run(tmp_path))
    files.last_path.write_bytes(b"")
    files.previous_path.write_bytes(b"")
    again = train(*TINY)
    assert "no whole checkpoint: starting anew" in again.output
    assert history(only_run(tmp_path)) == history(finished_run)


def test_a_checkpoint_with_foreign_objects_is_not_unpickled(train: Train, finished_sweep: Path, tmp_path: Path) -> None:
    """Even with a right checksum: `weights_only` refuses it before anything of it runs."""
    import hashlib
    import io

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    shutil.copytree(finished_sweep / "outputs", tmp_path / "outputs")
    files = unfinish(only_run(tmp_path))
    archive = io.BytesIO()
    torch.save({"model": Trap()}, archive)
    content = archive.getvalue()
    files.last_path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    assert train(*TINY).code == 1
    assert not (tmp_path / "trapped").exists()
    assert "Weights only load failed" in files.read_status()["error"]


@pytest.mark.slow
def test_what_runs_elsewhere_is_left_alone(train: Train, finished_sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_sweep / "outputs", tmp_path / "outputs")
    files = unfinish(only_run(tmp_path))
    before = files.status_path.read_bytes()
    with SoftFileLease(files.lock_path, lease_duration=LEASE_SECONDS):
        held = train(*TINY)
    assert held.code == 75
    assert "another process is working on it; left alone" in held.output
    assert files.status_path.read_bytes() == before


@pytest.mark.slow
def test_a_holder_that_has_gone_silent_is_succeeded(
    train: Train, finished_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process cannot be said to be dead, as that of a container which has started anew; here it is only stopped."""
    monkeypatch.setattr("trash_seg.job.LEASE_SECONDS", 3.0)
    shutil.copytree(finished_sweep / "outputs", tmp_path / "outputs")
    files = unfinish(only_run(tmp_path))
    code = "import sys; from filelock import SoftFileLease; lock = SoftFileLease(sys.argv[1], lease_duration=3.0); "
    code += "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(files.lock_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        completed = train(*TINY)
        holder.kill()
    assert completed.code == 0, completed.output
    assert files.read_status()["state"] == "done"


def check_failure(completed: Completed, folder: Path, message: str) -> None:
    assert completed.code == 1
    assert message in completed.output
    assert "Traceback" not in completed.output
    status = RunDir(only_run(folder)).read_status()
    assert status["state"] == "failed"
    assert message in status["error"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=trash", "data.root=/nowhere", "encoder.weights=null"], "/nowhere"),
        (["training.image_size=100", "decoder=FPN"], "training.image_size=100"),
        (["encoder.weights=imagenet"], "python -m trash_seg.weights fetch encoder=resnet18"),
        (["encoder.weights=imagenett"], "resnet18 has imagenet, ssl, swsl, or null"),
        (["training.batch_size=1000"], "training.batch_size=1000"),
        (["training.precision=fp16"], "training.precision=fp16"),
        (["encoder=timm", "encoder.name=tu-nosuchmodel"], "tu-nosuchmodel"),
        (
            ["encoder=timm", "encoder.name=tu-coatnet_pico_rw_224", "decoder=FPN"],
            "image_size=32: the network refuses it (T",
        ),
        (["decoder.name=Nope"], "decoder.name=Nope: SMP has unet"),
        (["optimizer.name=Adamm"], "optimizer.name=Adamm"),
    ],
)
def test_what_cannot_work_fails_with_key_value_and_way_out(
    train: Train, tmp_path: Path, overrides: list[str], message: str
) -> None:
    check_failure(train(*TINY, *overrides), tmp_path, message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=-1"], "optimizer.lr=-1.0: must be > 0"),
        (["optimizer.lrr=1"], "optimizer.lrr: there is no such setting; did you mean optimizer.lr?"),
        (["+training.epoch=2"], "training.epoch: there is no such setting; did you mean training.epochs?"),
        (["encodr=resnet18"], "encodr: there is no such setting; did you mean encoder?"),
        (["encoder=resnet19"], "Available options in 'encoder':"),
        (["training.epochs=many"], "could not be converted to Integer"),
        (["data=trash"], "data.root=DIR"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_made(
    train: Train, tmp_path: Path, overrides: list[str], message: str
) -> None:
    completed = train(*overrides)
    assert completed.code == 2
    assert message in completed.output
    assert "Traceback" not in completed.output
    assert not list(tmp_path.iterdir())


def test_an_unsupported_pair_is_no_failure(train: Train, tmp_path: Path) -> None:
    completed = train("encoder=resnet18", "decoder=DPT")
    assert completed.code == 0
    status = RunDir(only_run(tmp_path)).read_status()
    assert status["state"] == "unsupported"
    assert "Only Timm encoders are supported" in status["error"]
    assert status["data"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_without_memory_fails_with_a_way_out(train: Train, tmp_path: Path) -> None:
    import trash_seg.training  # noqa: F401  # what it imports takes memory too

    with memory_for(200 * 2**20):
        assert train(*TINY, "encoder=resnext101_32x48d").code == 1
    status = RunDir(only_run(tmp_path)).read_status()
    assert status["state"] == "failed"
    assert status["error"].startswith("out of memory (")
    assert "training.batch_size" in status["hint"]


def test_a_run_that_diverges_says_where(train: Train, tmp_path: Path) -> None:
    completed = train(*TINY, "optimizer=sgd", "optimizer.lr=1e30")
    assert completed.code == 1
    status = RunDir(only_run(tmp_path)).read_status()
    assert status["state"] == "diverged"
    assert "at epoch 1, step " in status["error"]
    assert "optimizer.lr" in status["hint"]
    assert not RunDir(only_run(tmp_path)).last_path.exists()


def test_other_data_under_the_same_name_is_not_mixed_in(train: Train, finished_sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_sweep / "outputs", tmp_path / "outputs")
    files = unfinish(only_run(tmp_path))
    status = files.read_status()
    files.write_status({**status, "data": {**status["data"], "fingerprint": "another"}})
    check_failure(train(*TINY), tmp_path, "this run began on other data")


def test_a_directory_with_something_else_is_named(train: Train, finished_sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_sweep / "outputs", tmp_path / "outputs")
    files = RunDir(only_run(tmp_path))
    files.status_path.write_text(json.dumps({"schema": 99}))
    completed = train(*TINY)
    assert completed.code == 1
    assert "schema 99, this version reads 1. Move the directory away" in completed.output


def test_a_folder_that_cannot_hold_runs_is_named(train: Train, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    completed = train(*TINY)
    assert completed.code == 2
    assert "outputs" in completed.output
    assert "Traceback" not in completed.output


@pytest.mark.slow
def test_a_lost_lock_ends_the_run_without_another_write(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first epoch somebody takes the lock, as a process elsewhere would that took this one for dead."""
    monkeypatch.setattr("trash_seg.job.LEASE_SECONDS", 0.6)
    code = "import sys; from filelock import SoftFileLease; lock = SoftFileLease(sys.argv[1], lease_duration=0.6); "
    code += "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    thieves = []

    def steal(*_: object, **__: object) -> None:
        lock_path = RunDir(only_run(tmp_path)).lock_path
        if not thieves:
            lock_path.unlink()
            command = [sys.executable, "-c", code, str(lock_path)]
            thieves.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert thieves[0].stdout.readline() == "held\n"

    monkeypatch.setattr("trash_seg.attempt.Attempt.note_epoch", steal)
    completed = train(*TINY, "training.epochs=30")
    thieves[0].communicate()
    assert completed.code == 75
    assert "another process has taken this directory; nothing more was written" in completed.output
    assert RunDir(only_run(tmp_path)).read_status()["state"] == "running"


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [20000, 60000])
def test_a_full_disk_leaves_the_checkpoint_before(train: Train, tmp_path: Path, kilobytes: int) -> None:
    """The limit on the size of a file stands for the disk: the next checkpoint does not fit."""
    process = start(tmp_path, *TINY, script=PATIENT)
    wait_for_checkpoints(process, tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    files = RunDir(only_run(tmp_path))
    before = files.last_path.read_bytes()
    limited = f"ulimit -f {kilobytes}; exec {sys.executable} -m trash_seg.train {' '.join(TINY)}"
    completed = subprocess.run(
        ["bash", "-c", limited], cwd=tmp_path, env=command_environment(), text=True, capture_output=True
    )
    assert completed.returncode == 75, completed.stderr
    status = files.read_status()
    assert status["state"] == "interrupted"  # so that a sweep, too, takes it up again
    assert "File too large" in status["error"]
    assert "what was saved is intact" in status["hint"]
    assert files.last_path.read_bytes() == before
    assert not list(files.path.glob(".*.tmp"))
    assert train(*TINY).code == 0


@pytest.mark.slow
def test_the_demo_learns(train: Train, tmp_path: Path) -> None:
    """The default run's validation mIoU is far above an untrained network's."""
    assert train().code == 0
    rows = RunDir(only_run(tmp_path)).read_history()
    untrained = 1 / 12 / 2  # guessing: IoU of a class is at most about its share, here generously
    assert float(rows[-1]["miou"]) > 5 * untrained
