import errno
import fcntl
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import start_process
from tests.data.broken import clean
from trash_seg.compose import compose_config
from trash_seg.data.dataset import Dataset, open_dataset
from trash_seg.errors import DataError
from trash_seg.models.pairs import Pair, facts

OPEN = """
import logging, sys
from trash_seg.compose import compose_config
from trash_seg.data.dataset import open_dataset
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
config = compose_config(sys.argv[1:])
dataset = open_dataset(config.data, image_size=config.training.image_size, runtime=config.runtime)
"""


def open_with(*overrides: str) -> Dataset:
    config = compose_config(["training.image_size=32", *overrides])
    return open_dataset(config.data, image_size=config.training.image_size, runtime=config.runtime)


def caches(path: Path) -> list[Path]:
    return sorted(path.glob("samples-*"))


def start(code: str, *overrides: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", code, *overrides]
    return start_process(arguments)


def assert_equal_samples(one: Dataset, other: Dataset) -> None:
    for ours, theirs in ((one.train, other.train), (one.val, other.val)):
        assert ours.names == theirs.names
        for index in range(len(ours.names)):
            assert np.array_equal(ours.images[index], theirs.images[index])
            assert np.array_equal(ours.masks[index], theirs.masks[index])


@pytest.mark.parametrize("overlap", ["highest_class", "smallest_on_top"])
def test_samples_equal_those_read_from_the_files(overlap: str) -> None:
    cached = open_with(f"data.overlap={overlap}")
    plain = open_with(f"data.overlap={overlap}", "runtime.cache=false")
    assert_equal_samples(cached, plain)
    assert cached.train.masks[1].max() > 0
    assert (cached.fingerprint, cached.warnings) == (plain.fingerprint, plain.warnings)
    assert np.array_equal(cached.pixels, plain.pixels)
    assert cached.pixels.sum() == len(cached.train.names) * 32 * 32


def test_the_second_run_decodes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trash_seg")
    for decoded in ((96, 24), (0, 0)):
        caplog.clear()
        open_with(f"runtime.cache_dir={tmp_path}")
        assert re.findall(r"cache: (\d+) images", caplog.text) == [str(number) for number in decoded]


def test_whatever_decides_the_samples_decides_the_cache(tmp_path: Path) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    train, val = clean(root)
    train.write()
    val.write()
    overrides = ["data=trash", f"data.root={root}", f"runtime.cache_dir={cache}"]
    before = open_with(*overrides)
    assert len(caches(cache)) == 2
    for change in ("training.image_size=48", "data.overlap=smallest_on_top", "data.class_of.UNKNOWN=Background"):
        number = len(caches(cache))
        open_with(*overrides, change)
        assert len(caches(cache)) == number + 2, change
    train.picture().save(root / "images" / "train_00.png")  # other content under the old name
    number = len(caches(cache))
    after = open_with(*overrides)
    assert len(caches(cache)) == number + 1
    assert not np.array_equal(before.train.images[0], after.train.images[0])
    assert before.fingerprint != after.fingerprint


@pytest.mark.slow
def test_a_killed_builder_leaves_no_half_cache(tmp_path: Path) -> None:
    overrides = (f"runtime.cache_dir={tmp_path}", "training.image_size=1024", "runtime.num_threads=1")
    dies = """
import os, signal
from trash_seg.data import cache
builder, write = os.getpid(), cache._SampleFile.write
def write_and_die(file, sample, *, index):
    write(file, sample, index=index)
    if index >= 64:
        os.kill(builder, signal.SIGKILL)
cache._SampleFile.write = write_and_die
"""
    builder = start(dies + OPEN, *overrides)
    builder.communicate()  # its workers have the same pipe: they have ended too
    assert builder.returncode == -signal.SIGKILL
    assert any(path.stat().st_blocks * 512 > 10**7 for path in tmp_path.glob(".samples-*.tmp/images.npy"))
    assert caches(tmp_path) == []
    after = open_with(f"runtime.cache_dir={tmp_path}", "training.image_size=1024")
    assert len(caches(tmp_path)) == 2
    assert not list(tmp_path.glob(".samples-*.tmp"))
    plain = open_with(f"runtime.cache_dir={tmp_path}", "training.image_size=1024", "runtime.cache=false")
    for index in (0, 95):
        assert np.array_equal(after.train.images[index], plain.train.images[index])


@pytest.mark.slow
def test_building_holds_no_file_for_each_part(tmp_path: Path) -> None:
    code = """
import resource
import trash_seg.data.dataset
from trash_seg.data import cache
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
cache.CHUNK = 1
"""
    builder = start(code + OPEN, f"runtime.cache_dir={tmp_path}", "training.image_size=32")
    printed = builder.communicate()[0]
    assert builder.returncode == 0, printed
    assert len(caches(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the run itself decodes")
def test_a_killed_decoder_ends_the_run_with_a_hint(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from trash_seg.compose import compose_config
from trash_seg.data import cache
from trash_seg.job import run
run_itself, write = os.getpid(), cache._SampleFile.write
def write_and_die(file, sample, *, index):
    if index == 64 and os.getpid() != run_itself:
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, sample, index=index)
cache._SampleFile.write = write_and_die
print(run(compose_config(sys.argv[2:]), sys.argv[1]))
"""
    job = start(code, str(tmp_path / "run"), f"runtime.cache_dir={tmp_path / 'cache'}", "runtime=cpu")
    printed = job.communicate()[0]
    assert "state='failed'" in printed and "mostly for want of memory" in printed
    assert caches(tmp_path / "cache") == [] and not list((tmp_path / "cache").glob(".samples-*.tmp"))


@pytest.mark.slow
def test_of_two_jobs_one_builds(tmp_path: Path) -> None:
    open_with(f"runtime.cache_dir={tmp_path}", "runtime.cache=false")  # draws the toy dataset
    jobs = [start(OPEN, f"runtime.cache_dir={tmp_path}", "training.image_size=512") for _ in range(2)]
    printed = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], printed
    decoded = [int(number) for text in printed for number in re.findall(r"cache: (\d+) images", text)]
    assert sorted(decoded) == [0, 0, 24, 96]


def test_a_full_disk_is_said_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = open_with(f"runtime.cache_dir={tmp_path}", "runtime.cache=false")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may grow beyond, as on a full disk
    try:
        dataset = open_with(f"runtime.cache_dir={tmp_path}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "going on without it" in caplog.text and f"runtime.cache_dir={tmp_path}" in caplog.text
    assert_equal_samples(dataset, plain)
    assert caches(tmp_path) == [] and not list(tmp_path.glob(".samples-*.tmp"))


@pytest.mark.slow
def test_without_file_locks_nobody_waits_for_a_process_killed_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's answer on such a file system stands for it."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with_locks = open_with(f"runtime.cache_dir={tmp_path / 'locks'}", "runtime.cache=false")
    dataset = open_with(f"runtime.cache_dir={tmp_path}")
    assert f"{tmp_path} has no file locks" in caplog.text
    assert len(caches(tmp_path)) == 2
    assert_equal_samples(dataset, with_locks)
    facts([Pair("resnet18", "Unet")], num_classes=3, image_size=96, cache_dir=tmp_path)
    assert list(tmp_path.glob("pairs/*.json"))


@pytest.mark.parametrize(("name", "size"), [("images.npy", 100), ("about.json", 0), ("pixels.npy", None)])
def test_a_damaged_cache_is_named(tmp_path: Path, name: str, size: int | None) -> None:
    open_with(f"runtime.cache_dir={tmp_path}")
    path = caches(tmp_path)[0] / name
    if size is None:
        path.unlink()
    else:
        os.truncate(path, size)
    with pytest.raises(DataError, match=rf"{path.parent}: is damaged .*; delete it, and it is built again"):
        open_with(f"runtime.cache_dir={tmp_path}")


def test_an_image_that_breaks_while_building_is_one_clear_error(tmp_path: Path) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    train, val = clean(root, num_images=40)
    train.image("images/cut.jpg", train.picture(640, 480), entry={"width": 640, "height": 480})
    train.write()
    val.write()
    path = root / "images" / "cut.jpg"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"cut\.jpg: does not decode, or is cut short"):
        open_with("data=trash", f"data.root={root}", f"runtime.cache_dir={cache}")
    assert caches(cache) == [] and not list(cache.glob(".samples-*.tmp"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
def test_datasets_larger_than_memory_are_built_and_read(tmp_path: Path) -> None:
    """300 MB of images and 100 MB of masks within 280 MB of private memory a process: neither building
    nor reading holds them all."""
    code = f"""
import os, re, resource
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each thread's stack counts
import torch
import trash_seg.data.dataset
from trash_seg.data.loader import Loader
used = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 280 * 2**20,) * 2)
{OPEN}
brightest = max(int(images.max()) for images, _ in Loader(dataset.train, batch_size=8).epoch(0))
print("bytes", dataset.train.images.nbytes, "brightest", brightest)
"""
    job = start(code, f"runtime.cache_dir={tmp_path}", "training.image_size=1024")
    printed = job.communicate()[0]
    assert job.returncode == 0, printed
    assert int(re.findall(r"bytes (\d+)", printed)[0]) > 300_000_000
    assert os.path.getsize(caches(tmp_path)[0] / "masks.npy") > 20_000_000
