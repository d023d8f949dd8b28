"""A training step by itself: what the loop around it costs, what the graph and determinism do, and jobs side by side.

    python -m benchmarks.step ../shared/data/trash190

Ways take turns, each for as many steps a round:

- `loop`: epochs as a run trains them;
- `resident`: the same step on one batch that lies on the device, over and over;
- `eager`, `deterministic`: the loop without its graph, and with `training.deterministic=true` (CUDA only);
- `compiled` (`--controls`): the loop with the network through `torch.compile`, and what its start costs.

Then, on CUDA, the share of time in which the device computes, and whether a captured run equals the eager one bit for
bit in deterministic mode; and anywhere, images/s in sum of jobs that share the machine.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import RESULTS_DIR, job_settings, keep, precisions, spread
from trash_seg.compose import compose_config
from trash_seg.config import Config
from trash_seg.data.dataset import Dataset, open_dataset
from trash_seg.data.loader import Loader
from trash_seg.engine.allocator import keep_freed_memory
from trash_seg.engine.fit import Fit
from trash_seg.engine.loss import build_loss
from trash_seg.engine.progress import RunProgress
from trash_seg.engine.step import Step, choose_device
from trash_seg.models.build import build_model
from trash_seg.models.fuse import fuse
from trash_seg.rundir import RunDir
from trash_seg.stop import StopRequest
from trash_seg.training import build_loaders, make_deterministic, takes_triton

GOALS = {"loop / resident": 0.95, "busy": 0.90, "deterministic / loop": 1 / 1.15, "jobs side by side": 1.15}
NUM_COMPARED = 100
"""Steps after which captured and eager weights are compared."""


def build_step(config: Config, dataset: Dataset, device: torch.device, *, fused: bool) -> tuple[Step, Loader, Loader]:
    """A run's step and its loaders, as `trash_seg.training.train` puts them together."""
    train, val = build_loaders(config, dataset, device)
    capture = config.runtime.step != "eager" and device.type == "cuda"
    torch.manual_seed(0)
    model = build_model(config)
    if fused:
        fuse(model, device=device, triton=takes_triton(config.training, captured=capture))
    criterion = build_loss(config.loss, pixels=None, device=device, deterministic=config.training.deterministic)
    step = Step(
        model, config=config, criterion=criterion, steps_per_epoch=train.num_batches, device=device,
        train_samples=train.samples, val_samples=val.samples,
        capture=capture,
    )  # fmt: skip
    return step, train, val


class Training:
    """A run's training steps, without its validation and its files."""

    def __init__(self, settings: list[str], device: torch.device) -> None:
        config = compose_config(settings)
        self.deterministic = config.training.deterministic
        make_deterministic(self.deterministic)
        dataset = open_dataset(config.data, image_size=config.training.image_size, runtime=config.runtime)
        self.step, self.loader, val = build_step(config, dataset, device, fused=True)
        self.fit = Fit(
            self.step, config=config, train=self.loader, val=val, classes=dataset.classes,
            val_names=dataset.val.names, run_dir=RunDir("unused"), stop=StopRequest(), on_save=lambda *_: None,
        )  # fmt: skip
        self.fit.progress = RunProgress(epochs=1, batches_per_epoch=1, done=0, enabled=False)
        self.batch = next(iter(self.loader.epoch(0)))

    def loop(self, num_epochs: int) -> None:
        """Trains as a run does."""
        make_deterministic(self.deterministic)
        for _ in range(num_epochs):
            self.fit.train()
            self.fit.position.epoch, self.fit.position.step = self.fit.position.epoch + 1, 0

    def resident(self, num_epochs: int) -> None:
        """As many steps, all on one batch."""
        make_deterministic(self.deterministic)
        batch = tuple(tensor.to(self.step.device) for tensor in self.batch)
        self.step.model.train()
        for _ in range(num_epochs * self.loader.num_batches):
            loss = self.step.train(*batch)
        loss.item()

    @property
    def num_images(self) -> int:
        """Of an epoch."""
        return self.loader.num_batches * self.loader.batch_size


def take_turns(
    ways: Mapping[str, Callable[[int], None]], *, num_images: int, num_epochs: int, rounds: int
) -> dict[str, list[float]]:
    """Images/s of each way in each round, after one that warms up."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number, (name, train) in itertools.product(range(rounds + 1), ways.items()):
        started = time.perf_counter()
        train(num_epochs)
        if number:
            rates[name].append(num_epochs * num_images / (time.perf_counter() - started))
    return rates


def busy_seconds(train: Callable[[int], None]) -> tuple[float, float]:
    """Of an epoch: the seconds in which a kernel runs, and those from the first to the last; NaN without kernels.

    Kernels are as long as without the trace, but it takes time between them.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        train(1)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or ()
        if event.device_type == DeviceType.CUDA
    )
    if not spans:
        return float("nan"), float("nan")
    first = done = spans[0][0]
    busy = 0.0
    for start, end in spans:
        busy += max(end - max(start, done), 0)
        done = max(done, end)
    return busy / 1e6, (done - first) / 1e6


def captured_equals_eager(settings: list[str], device: torch.device) -> bool:
    """Whether losses and weights agree bit for bit after `NUM_COMPARED` steps in deterministic mode."""
    runs = []
    for how in ("graph", "eager"):
        training = Training([*settings, "training.deterministic=true", f"runtime.step={how}"], device)
        training.loop(-(-NUM_COMPARED // training.loader.num_batches))
        runs.append({**training.step.model.state_dict(), "losses": training.fit.position.losses})
    make_deterministic(False)
    return all(torch.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())


def compiled(settings: list[str], device: torch.device) -> tuple[Training, float]:
    """A training whose network is compiled, from an empty cache, and the seconds of its first two epochs."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        training = Training(settings, device)
        training.step.model.compile(dynamic=False)
        started = time.perf_counter()
        training.loop(2)
        return training, time.perf_counter() - started


def side_by_side(settings: list[str], device: torch.device, *, num_jobs: int, num_epochs: int) -> float:
    """Images/s in sum of jobs that start their epochs together, each a process with its share of the cores."""
    spawn = multiprocessing.get_context("spawn")
    start, rates = spawn.Barrier(num_jobs), spawn.SimpleQueue()
    job = (settings, str(device), num_epochs, max(len(os.sched_getaffinity(0)) // num_jobs, 1), start, rates)
    processes = [spawn.Process(target=_job, args=job) for _ in range(num_jobs)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, f"a job ended with {process.exitcode}"
    return float(sum(rates.get() for _ in processes))


def _job(settings: list[str], device: str, num_epochs: int, num_threads: int, start: Any, rates: Any) -> None:
    torch.set_num_threads(num_threads)
    if device == "cpu":
        keep_freed_memory()
    training = Training(settings, torch.device(device))
    training.loop(1)
    start.wait(timeout=600)
    started = time.perf_counter()
    training.loop(num_epochs)
    seconds = time.perf_counter() - started
    training.loop(num_epochs)  # so that none has the device to itself before the last has been timed
    rates.put(num_epochs * training.num_images / seconds)


def measure(settings: list[str], device: torch.device, *, given: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the figures of a pair at a precision."""
    plain = Training(settings, device)
    ways = {"loop": plain.loop, "resident": plain.resident}
    if device.type == "cuda":
        ways["eager"] = Training([*settings, "runtime.step=eager"], device).loop
        ways["deterministic"] = Training([*settings, "training.deterministic=true"], device).loop
        make_deterministic(False)
    if given.controls:
        control, first_epochs = compiled(settings, device)
        ways["compiled"] = control.loop
    rates = take_turns(ways, num_images=plain.num_images, num_epochs=given.epochs, rounds=given.rounds)
    for name, values in rates.items():
        print(f"  {name:24}{spread(values):>24} images/s")
    figures: dict[str, Any] = {"images_per_second": rates, "ratios": {}}

    def say(name: str, value: float) -> None:
        figures["ratios"][name] = value
        goal = f" (goal {GOALS[name]:.2f})" if device.type == "cuda" and name in GOALS else ""
        print(f"  {name:24}{value:9.3f}{goal}", flush=True)

    for name, of in (("loop", "resident"), ("loop", "eager"), ("deterministic", "loop")):
        if name in rates and of in rates:
            say(f"{name} / {of}", statistics.median(a / b for a, b in zip(rates[name], rates[of], strict=True)))
    if device.type == "cuda":
        busy, traced = busy_seconds(plain.loop)
        say("busy", busy * statistics.median(rates["loop"]) / plain.num_images)
        say("busy while traced", busy / traced)
        figures["captured_equals_eager"] = captured_equals_eager(settings, device)
        print(f"  after {NUM_COMPARED} steps captured and eager are equal: {figures['captured_equals_eager']}")
    if given.controls:
        seconds = {name: plain.num_images / statistics.median(rates[name]) for name in ("loop", "compiled")}
        start, gain = first_epochs - 2 * seconds["compiled"], seconds["loop"] - seconds["compiled"]
        pays = f"pays after {start / gain:.0f} epochs" if gain > 0 else "never pays"
        figures["compile_seconds"] = start
        print(f"  compiling takes {start:.0f} s and {pays} of {plain.num_images} images", flush=True)
    if given.jobs:
        figures["jobs"] = share(settings, device, given=given)
        alone, *together = map(statistics.median, figures["jobs"].values())
        say("jobs side by side", max(together) / alone)
    return figures


def share(settings: list[str], device: torch.device, *, given: argparse.Namespace) -> dict[int, list[float]]:
    """Images/s in sum of 1 job and of several at once, in turns."""
    rates: dict[int, list[float]] = {num_jobs: [] for num_jobs in (1, *given.jobs)}
    for _, num_jobs in itertools.product(range(given.rounds), rates):
        rates[num_jobs].append(side_by_side(settings, device, num_jobs=num_jobs, num_epochs=given.epochs))
    for num_jobs, values in rates.items():
        name = f"{num_jobs} jobs at once"
        print(f"  {name:24}{spread(values):>24} images/s", flush=True)
    return rates


def main() -> None:
    device = choose_device("auto")
    on_cuda = device.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", default="resnext50_32x4d:DeepLabV3Plus,efficientnet-b3:Unet")
    parser.add_argument("--precisions", default=precisions(), help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=None, help="a round (default: 1 on a CPU, 10 on CUDA)")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="*", default=None, help="at once (default: 2 on a CPU, 2 4 on CUDA)")
    parser.add_argument("--controls", action="store_true", help="also torch.compile, which is not expected to pay")
    parser.add_argument("--out", type=Path, default=RESULTS_DIR / "step.json")
    given = parser.parse_args()
    given.epochs = given.epochs or (10 if on_cuda else 1)
    given.jobs = ([2, 4] if on_cuda else [2]) if given.jobs is None else given.jobs
    os.environ["TEARDOWN_CUPTI"] = "0"  # CUPTI that starts again sees no graph's kernels
    make_deterministic(True)  # cuBLAS reads its setting once; each way then asks for its own
    if not on_cuda:
        keep_freed_memory()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for pair, precision in itertools.product(given.pairs.split(","), given.precisions.split(",")):
            settings = [
                *job_settings(given.data, pair, size=given.size), f"training.precision={precision}",
                f"runtime.cache_dir={cache}", "runtime.checkpoint_seconds=1e9",
            ]  # fmt: skip
            print(f"\n{pair}, {precision}, {given.size} px", flush=True)
            results[f"{pair} {precision}"] = measure(settings, device, given=given)
            keep(given.out, size=given.size, epochs=given.epochs, results=results)


if __name__ == "__main__":
    main()
