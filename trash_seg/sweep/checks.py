"""What only torch can judge of a sweep's settings, asked in a process of its own: the launcher stays small."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from trash_seg.config import OptimizerConfig

KNOWN = {"Adam": {}, "AdamW": {}, "RAdam": {}, "SGD": {"momentum": 0.9, "nesterov": True}}
"""Optimizers and options of `conf/optimizer/`, about which there is nothing to ask."""


def check_optimizers(configs: Iterable[OptimizerConfig]) -> None:
    """Before any job starts.

    Raises:
        ConfigError: torch has no such optimizer, or it refuses an option.
    """
    unusual = {repr(config): config for config in configs if config.options != KNOWN.get(config.name)}
    if unusual:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            list(pool.map(_check, unusual.values()))


def _check(config: OptimizerConfig) -> None:
    import torch

    from trash_seg.engine.optimizer import build_optimizer

    build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))], device=torch.device("cpu"))
