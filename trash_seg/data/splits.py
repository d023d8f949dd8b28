"""Splits one set of images into parts that resemble each other in the classes present."""

import numpy as np
import numpy.typing as npt


def assign(present: npt.NDArray[np.bool_], *, fractions: list[float], seed: int) -> npt.NDArray[np.int64]:
    """Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): the rarest class is dealt out first.

    Args:
        present: (N, C) which classes an image shows.
        fractions: Share of each part; they sum to 1.
        seed: Of the order in which images are dealt and of ties.

    Returns:
        (N,) the part of each image.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(present))
    shares = np.array(fractions)
    wanted = shares * len(present)  # images that each part still wants
    wanted_of = np.outer(shares, present.sum(axis=0))  # likewise for each class
    parts = np.full(len(present), -1, np.int64)
    left = present[order].copy()
    while left.any():
        counts = left.sum(axis=0)
        rarest = int(np.argmin(np.where(counts > 0, counts, len(present) + 1)))
        for position in np.flatnonzero(left[:, rarest]):
            part = _choose(wanted_of[:, rarest], wanted, rng, only=present[:, rarest].sum() == 1)
            image = order[position]
            parts[image] = part
            wanted[part] -= 1
            wanted_of[part] -= present[image]
            left[position] = False
    for image in order[parts[order] < 0]:
        part = int(np.argmax(wanted))
        parts[image] = part
        wanted[part] -= 1
    return parts


def _choose(
    wanted_of: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], rng: np.random.Generator, *, only: bool
) -> int:
    """The part that wants the class most; where none wants a whole image of it, by lot, so that small parts get some.

    Args:
        wanted_of: (K,) images of the class that each part still wants.
        wanted: (K,) images of any kind.
        rng: Draws the lot.
        only: No other image shows the class. The largest part gets it.
    """
    if wanted_of.max() >= 1 or only:
        return max(range(len(wanted)), key=lambda k: (wanted_of[k], wanted[k]))
    weights = np.where(wanted > 0, wanted_of.clip(0), 0)
    if weights.sum() < 1e-9:  # rounding leaves traces
        return int(np.argmax(wanted))
    return int(rng.choice(len(wanted), p=weights / weights.sum()))
