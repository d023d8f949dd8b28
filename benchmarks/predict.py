"""Prediction in images/s: ours, and a plain loop that loads, normalises and runs one image at a time.

    python -m benchmarks.predict ../shared/data/trash190

DATA holds images. Both decode the same files and write index masks at the image's own size as PNG, compressed alike
(ours enlarges probabilities, the loop labels, which costs less). The networks have the weights they begin with: that
takes the same time. Each way is a process of its own, as a user starts it, and they take turns, so that what else the
machine does meets both. Compared are medians, and the medians of the ratios to the faster of the loop's two ways in the
same round: on all threads, and on one.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from benchmarks.machine import RESULTS_DIR, keep
from trash_seg.compose import compose_config
from trash_seg.engine.allocator import keep_freed_memory
from trash_seg.engine.precision import has_bf16
from trash_seg.engine.step import IMAGENET_MEAN, IMAGENET_STD, choose_device
from trash_seg.inference.ensemble import build_ensemble
from trash_seg.inference.inputs import Inputs, read_inputs
from trash_seg.inference.load import TrainedRun
from trash_seg.inference.options import Options
from trash_seg.inference.write import write_outputs
from trash_seg.models.build import build_model
from trash_seg.predict import parser

GOAL = 1.5
MEAN, STD = np.float32(IMAGENET_MEAN), np.float32(IMAGENET_STD)
work: Callable[[Path], None]
"""What this process does in a round."""


def plain_loop(model: torch.nn.Module, inputs: Inputs, folder: Path, *, size: int, device: torch.device) -> None:
    """One image at a time: load, resize, normalise, run, argmax, enlarge to the nearest pixel, save."""
    for item in inputs.items:
        with Image.open(item.path) as opened:
            image = opened.convert("RGB")
        small = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
        pixels = torch.from_numpy((small - MEAN) / STD).permute(2, 0, 1)[None]
        with torch.no_grad():
            labels = model(pixels.to(device)).argmax(1)[0].to(torch.uint8).cpu().numpy()
        mask = Image.fromarray(labels).resize(image.size, Image.Resampling.NEAREST)
        path = (folder / item.output).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path, compress_level=3)


def ours(run: TrainedRun, inputs: Inputs, folder: Path, *, precision: str, device: torch.device) -> None:
    arguments = ["run", "--masks", str(folder), "--precision", precision]
    options = Options(**vars(parser().parse_args(arguments)))
    ensemble = build_ensemble([run], device=device, precision=precision, tta="none", scales=[1.0])
    with open(os.devnull, "w") as nowhere:
        assert write_outputs(options, inputs, ensemble, None, Console(file=nowhere)) == 0


def make_run(pair: str, *, size: int) -> TrainedRun:
    encoder, decoder = pair.split(":")
    config = compose_config([f"encoder={encoder}", f"decoder={decoder}", "training=log", f"training.image_size={size}"])
    torch.manual_seed(0)
    return TrainedRun(pair, config, build_model(config).eval(), 0, 0.0)


def start(way: str, pair: str, data: Path, *, size: int, num_images: int, device: torch.device, threads: int) -> None:
    """Makes the network in a process that is one way's own: neither way's time holds it."""
    global work
    torch.set_num_threads(threads)
    run = make_run(pair, size=size)
    inputs = Inputs(read_inputs([data], images_dir=None, config=run.config).items[:num_images])
    if way.startswith("loop"):
        work = partial(plain_loop, run.model.to(device), inputs, size=size, device=device)
    else:
        if device.type == "cpu":
            keep_freed_memory()  # as `trash_seg.predict` does
        work = partial(ours, run, inputs, precision=way.split()[-1], device=device)


def once() -> float:
    """Seconds."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        work(Path(folder))
        return time.perf_counter() - started


def measure(pair: str, data: Path, *, size: int, num_images: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Images/s of each way, round by round; the first round warms up."""
    threads = torch.get_num_threads()
    ways = {"loop": threads, "loop, 1 thread": 1, "ours, fp32": threads}
    if device.type == "cuda" or has_bf16():
        ways["ours, bf16"] = threads
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with ExitStack() as stack:
        pools = {}
        for name, number in ways.items():
            settings: dict[str, Any] = {"size": size, "num_images": num_images, "device": device, "threads": number}
            pool = ProcessPoolExecutor(
                1, mp_context=get_context("spawn"), initializer=partial(start, name, pair, data, **settings)
            )
            pools[name] = stack.enter_context(pool)
        for number, (name, pool) in itertools.product(range(rounds + 1), pools.items()):
            rate = num_images / pool.submit(once).result()
            if number:
                rates[name].append(rate)
                print(f"{pair:36} round {number}  {name:14} {rate:7.2f} images/s", flush=True)
    return rates


def main() -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("data", type=Path, help="a folder of images, or a COCO file")
    cli.add_argument("--pairs", default="resnet18:Unet,efficientnet-b3:Unet,resnext50_32x4d:DeepLabV3Plus")
    cli.add_argument("--size", type=int, default=256, help="training size, px (%(default)s)")
    cli.add_argument("--num-images", type=int, default=96, help="a round (%(default)s)")
    cli.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    cli.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    cli.add_argument("--out", type=Path, default=RESULTS_DIR / "predict.json")
    given = cli.parse_args()
    device = choose_device(given.device)
    pairs = given.pairs.split(",")
    found = read_inputs([given.data], images_dir=None, config=make_run(pairs[0], size=given.size).config)
    num_images = min(given.num_images, len(found.items))
    results = {}
    for pair in pairs:
        rates = measure(pair, given.data, size=given.size, num_images=num_images, rounds=given.rounds, device=device)
        # On busy machines one thread can beat several: the loop is granted what suits it best in each round.
        loop = [max(pair) for pair in zip(rates["loop"], rates["loop, 1 thread"], strict=True)]
        ratios = {
            name: statistics.median(a / b for a, b in zip(values, loop, strict=True)) for name, values in rates.items()
        }
        results[pair] = {"images_per_second": rates, "ratio": ratios}
    for pair, result in results.items():
        for name, values in result["images_per_second"].items():
            median, low, high = statistics.median(values), min(values), max(values)
            print(
                f"{pair:36} {name:14} {median:7.2f} images/s ({low:.2f} to {high:.2f})  × {result['ratio'][name]:.2f}"
            )
    keep(
        given.out, device=str(device), num_threads=torch.get_num_threads(), size=given.size,
        num_images=num_images, results=results,
    )  # fmt: skip
    for name in next(iter(results.values()))["ratio"]:
        if name.startswith("ours"):
            ratios = [result["ratio"][name] for result in results.values()]
            mean = statistics.geometric_mean(ratios)
            print(f"{name}: × {min(ratios):.2f} to {max(ratios):.2f}, geometric mean {mean:.2f} (goal {GOAL})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
