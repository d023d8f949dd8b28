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
            part = max(range(len(shares)), key=lambda k: (wanted_of[k, rarest], wanted[k]))
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
