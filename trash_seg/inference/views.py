"""Test-time augmentation: the same image turned and flipped, and its probabilities turned back."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """A flip left-right, then `turns` · 90° counter-clockwise, of square images."""

    flipped: bool = False
    turns: int = 0

    def apply(self, images: Tensor) -> Tensor:
        """(N, C, S, S) → the same shape."""
        return torch.rot90(images.flip(3) if self.flipped else images, self.turns, (2, 3))

    def undo(self, images: Tensor) -> Tensor:
        """The inverse of `apply`."""
        images = torch.rot90(images, -self.turns, (2, 3))
        return images.flip(3) if self.flipped else images


VIEWS = {
    "none": [View()],
    "hflip": [View(), View(flipped=True)],
    # Up-down is left-right and half a turn.
    "flips": [View(), View(flipped=True), View(flipped=True, turns=2), View(turns=2)],
    "turns": [View(turns=turns) for turns in range(4)],
    "all": [View(flipped, turns) for flipped in (False, True) for turns in range(4)],
}
"""`--tta` → views; their probabilities are averaged."""
