"""Facts on encoder × decoder pairs: what SMP can build, how large it is, and what an image costs.

Imports neither torch nor SMP until a pair must be built that no table knows.
"""

import csv
import functools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trash_seg.errors import UserError, is_out_of_memory
from trash_seg.locks import locked
from trash_seg.rundir import write_text

if TYPE_CHECKING:
    from segmentation_models_pytorch.base import SegmentationModel

log = logging.getLogger(__name__)

TABLE_PATH = Path(__file__).with_name("pairs.csv")
TABLE_CLASSES = 12
TABLE_SIZES = (32, 64, 128, 256, 512)


class Pair(NamedTuple):
    """What decides an architecture, the number of classes aside."""

    encoder: str
    """SMP's name, or `tu-` and any timm model."""
    decoder: str
    """SMP's class name."""
    options: str = "{}"
    """`decoder.options` as JSON with sorted keys."""


class PairFacts(NamedTuple):
    """What is known of a pair without training it."""

    parameters: int | None
    """None where SMP cannot build the pair."""
    gflops: float | None
    """2 · MACs / 1e9 of one image's forward pass; None also where the network refuses the image size."""
    reason: str | None
    """Why SMP cannot build it, in one line."""


def facts(
    pairs: Iterable[Pair],
    *,
    num_classes: int,
    image_size: int,
    cache_dir: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Pair, PairFacts]:
    """Looks pairs up in the table that comes with the package, then in the cache; builds the rest on all cores.

    Args:
        pairs: Asked for; the answer has each of them.
        num_classes: Outputs of the network.
        image_size: Side of the square image, px.
        cache_dir: `runtime.cache_dir`; what had to be built is kept below it, for each version of SMP and timm.
        report: Told how many of the missing pairs are built, and how many there are.

    Raises:
        ConfigError: There is no such encoder or decoder, or the pair refuses an option.
        UserError: This machine cannot build one now.
    """
    asked = list(dict.fromkeys(pairs))
    found = {pair: entry for pair in asked if (entry := _tabulated(pair, num_classes, image_size)) is not None}
    cache = _Cache(cache_dir, num_classes=num_classes, image_size=image_size)
    found |= {pair: entry for pair, entry in cache.read().items() if pair in set(asked) - found.keys()}
    missing = [pair for pair in asked if pair not in found]
    if missing:
        built: dict[Pair, PairFacts] = {}
        try:
            _build_all(missing, into=built, num_classes=num_classes, image_size=image_size, report=report)
        finally:
            if built:
                cache.keep(built)
        found |= built
    return {pair: found[pair] for pair in asked}


@functools.cache
def listed_weights() -> dict[str, list[str]]:
    """SMP encoder → names of its pretrained weights. `tu-` encoders are not listed."""
    if _table_fits():
        with TABLE_PATH.open(encoding="utf-8", newline="") as file:
            return {row["encoder"]: row["weights"].split() for row in csv.DictReader(file)}
    from segmentation_models_pytorch.encoders import encoders

    return {name: list(entry["pretrained_settings"]) for name, entry in encoders.items()}


def build_on_meta(pair: Pair, *, num_classes: int) -> "SegmentationModel":
    """The network without memory for its weights, in evaluation mode.

    Raises:
        Exception: Of any kind, where SMP or timm cannot build the pair.
    """
    import segmentation_models_pytorch as smp
    import torch

    def create() -> "SegmentationModel":
        options = json.loads(pair.options)
        return smp.create_model(pair.decoder, pair.encoder, encoder_weights=None, classes=num_classes, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SMP's advice to rename encoders
        try:
            with torch.device("meta"):
                model = create()
        except (RuntimeError, NotImplementedError):  # some encoders read values while they are built: `.item()`
            model = create().to("meta")
    return model.eval()


def count_parameters(model: "SegmentationModel") -> int:
    """Trained or not, buffers aside."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: "SegmentationModel", *, image_size: int) -> int | None:
    """2 · MACs of one image through a network on the meta device; None where it refuses the size."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, AssertionError):  # SMP, torch and timm each have their way of refusing
        return None
    return int(counter.get_total_flops())


def _table_fits() -> bool:
    with TABLE_PATH.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file), None)
    return row is not None and row["smp"] == version("segmentation-models-pytorch")


@functools.cache
def _table() -> dict[Pair, dict[str, str]]:
    if not _table_fits():
        return {}
    with TABLE_PATH.open(encoding="utf-8", newline="") as file:
        return {Pair(row["encoder"], row["decoder"]): row for row in csv.DictReader(file)}


def _tabulated(pair: Pair, num_classes: int, image_size: int) -> PairFacts | None:
    """Only the last layer depends on the number of classes, so both counts are linear in it."""
    row = _table().get(pair)
    if row is None or (image_size not in TABLE_SIZES and not row["reason"]):
        return None
    if row["reason"]:
        return PairFacts(None, None, row["reason"])
    more = num_classes - TABLE_CLASSES
    parameters = int(row["parameters"]) + more * int(row["parameters_per_class"])
    if not row[f"flops_{image_size}"]:
        return PairFacts(parameters, None, None)
    flops = int(row[f"flops_{image_size}"]) + more * int(row[f"flops_{image_size}_per_class"])
    return PairFacts(parameters, flops / 1e9, None)


class _Cache:
    """One JSON file for each version of SMP and timm, number of classes and image size.

    Its `v2` leaves behind what earlier commits kept of misspelt pairs, and of some that had met too little memory.
    """

    def __init__(self, cache_dir: Path, *, num_classes: int, image_size: int) -> None:
        self.dir = cache_dir
        versions = f"smp-{version('segmentation-models-pytorch')}-timm-{version('timm')}"
        self.path = cache_dir.expanduser() / "pairs" / f"{versions}-{num_classes}-classes-{image_size}-px-v2.json"

    def read(self) -> dict[Pair, PairFacts]:
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a damaged cache is no cache
            return {}
        return {Pair(*pair): PairFacts(*entry) for pair, entry in rows}

    def keep(self, entries: dict[Pair, PairFacts]) -> None:
        """Adds what is new, or says why it cannot."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock"), what=str(self.path)):
                write_text(self.path, json.dumps(list((self.read() | entries).items()), indent=0))
        except OSError as error:
            log.warning(
                "runtime.cache_dir=%s: what is known of %d pairs cannot be kept there (%s); the next command builds "
                "them again. Free some space, or choose another folder",
                self.dir, len(entries), error.strerror or error,
            )  # fmt: skip


def _build_all(
    pairs: list[Pair], *, into: dict[Pair, PairFacts], num_classes: int, image_size: int,
    report: Callable[[int, int], None],
) -> None:  # fmt: skip
    build = functools.partial(_build_facts, num_classes=num_classes, image_size=image_size)
    for done, (pair, entry) in enumerate(zip(pairs, _map(build, pairs), strict=True), start=1):
        into[pair] = entry
        report(done, len(pairs))


def _map(build: Callable[[Pair], PairFacts], pairs: list[Pair]) -> Iterator[PairFacts]:
    """In processes of their own even for one pair: the caller may be one that must stay small.

    A few pairs are built sooner than a second process has imported SMP.
    """
    num_workers = min(len(os.sched_getaffinity(0)), 1 + len(pairs) // 16)
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(build, pairs)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _build_facts(pair: Pair, *, num_classes: int, image_size: int) -> PairFacts:
    from trash_seg.models.build import check_names, one_line, options_refused

    options = json.loads(pair.options)
    check_names(pair.encoder, pair.decoder, options)
    try:
        model = build_on_meta(pair, num_classes=num_classes)
    except Exception as error:  # SMP and timm refuse pairs with every kind of exception
        if isinstance(error, OSError) or is_out_of_memory(error):  # of this machine, so nothing to keep
            raise UserError(
                f"{pair.encoder} × {pair.decoder}: cannot be built on this machine now ({error}); mend that, or leave "
                "the pair out"
            ) from error
        plain = pair._replace(options="{}")
        if options and _build_facts(plain, num_classes=num_classes, image_size=image_size).reason is None:
            raise options_refused(pair.encoder, pair.decoder, options, error) from error
        return PairFacts(None, None, one_line(error))
    flops = count_flops(model, image_size=image_size)
    return PairFacts(count_parameters(model), None if flops is None else flops / 1e9, None)
