"""What a run will cost, learnt from the runs of its sweep that are done."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls


@dataclass(frozen=True)
class Work:
    """What decides a run's time and memory, as far as it is known before."""

    hash: str
    """Of the settings without the seed: replicates cost the same."""
    epochs: int
    batch_size: int
    parameters: float
    gflops: float
    """Of one image."""

    @property
    def units(self) -> float:
        """A relative cost for the order of runs while nothing is measured; small networks are bound by overhead."""
        return self.epochs * (self.gflops + 1)

    @property
    def seconds_terms(self) -> list[float]:
        """The start, the overhead of an epoch, its arithmetic, and the optimizer's share."""
        return [1, self.epochs, self.epochs * self.gflops, self.epochs * self.parameters / 1e6]

    @property
    def memory_terms(self) -> list[float]:
        """The process, the weights with gradients and moments, and the activations of a batch."""
        return [1, self.parameters / 1e6, self.batch_size * self.gflops]


class CostModel:
    """Seconds and bytes as sums of terms with factors >= 0, fitted to what was measured by least relative squares."""

    def __init__(self, measured: Iterable[tuple[Work, float, float | None]]) -> None:
        """Args: measured: (work, seconds, peak memory in bytes or None) of finished runs."""
        entries = list(measured)
        self._seconds_of = _means((work.hash, seconds) for work, seconds, _ in entries)
        self._memory_of = _means((work.hash, memory) for work, _, memory in entries if memory)
        self._seconds = _fit([(work.seconds_terms, seconds) for work, seconds, _ in entries])
        self._memory = _fit([(work.memory_terms, memory) for work, _, memory in entries if memory])

    def seconds(self, work: Work) -> float | None:
        """Of a whole run; None while nothing is measured."""
        return _predict(self._seconds_of, self._seconds, work.hash, work.seconds_terms)

    def memory(self, work: Work) -> float | None:
        """Peak bytes; None while nothing is measured."""
        return _predict(self._memory_of, self._memory, work.hash, work.memory_terms)


def work_of(status: dict[str, Any]) -> Work | None:
    """The work of a run that has a status; None where its network's size is not recorded."""
    training = status["config"]["training"]
    parameters, gflops = status.get("parameters"), status.get("gflops")
    if parameters is None or gflops is None:
        return None
    return Work(status["hash"], training["epochs"], training["batch_size"], parameters, gflops)


def _means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: sum(entries) / len(entries) for key, entries in values.items()}


def _fit(rows: list[tuple[list[float], float]]) -> NDArray[np.float64] | None:
    """Factors >= 0; with fewer rows than terms one common factor for all terms' sum, None without rows."""
    rows = [(terms, value) for terms, value in rows if value > 0]
    if not rows:
        return None
    terms, values = np.array([terms for terms, _ in rows], float), np.array([value for _, value in rows], float)
    if len(rows) < terms.shape[1]:
        return np.full(terms.shape[1], np.median(values / terms.sum(axis=1)))
    factors, _ = nnls(terms / values[:, None], np.ones(len(values)))
    return np.asarray(factors, dtype=np.float64)


def _predict(
    known: dict[str, float], factors: NDArray[np.float64] | None, key: str, terms: list[float]
) -> float | None:
    if key in known:
        return known[key]
    return None if factors is None else float(np.dot(factors, terms))
