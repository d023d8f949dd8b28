"""Colour overlays: the mask over the image, a legend below."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trash_seg.palette import palette

Pixels = npt.NDArray[np.uint8]
OPACITY = 0.55
MIN_WIDTH, LINE_HEIGHT, SWATCH, GAP = 240, 22, 14, 6


def draw_overlay(image: Pixels, mask: Pixels, *, classes: list[str]) -> Image.Image:
    """The image with every class but the background in its colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class index.
        classes: Names by index.

    Returns:
        RGB, at least MIN_WIDTH wide, with a legend of the classes that occur.
    """
    colors = np.array(palette(len(classes)), np.uint8)
    weight = np.full(len(classes), round(256 * OPACITY), np.uint16)
    weight[0] = 0
    share = weight[mask][..., None]
    blended = ((256 - share) * image + share * colors[mask]) >> 8
    height, width = mask.shape
    present = np.flatnonzero(np.bincount(mask.ravel(), minlength=len(classes)))
    entries = [(classes[index], tuple(colors[index].tolist())) for index in present]
    return _with_legend(Image.fromarray(blended.astype(np.uint8)), entries, width=max(width, MIN_WIDTH), top=height)


def _with_legend(
    picture: Image.Image, entries: list[tuple[str, tuple[int, ...]]], *, width: int, top: int
) -> Image.Image:
    font = ImageFont.load_default(13)
    positions, x, line = [], GAP, 0
    for name, _ in entries:
        needed = SWATCH + 2 * GAP + round(font.getlength(name)) + GAP
        if x > GAP and x + needed > width:
            x, line = GAP, line + 1
        positions.append((x, top + GAP + line * LINE_HEIGHT))
        x += needed
    canvas = Image.new("RGB", (width, top + (line + 1) * LINE_HEIGHT + GAP), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (name, color), (left, y) in zip(entries, positions, strict=True):
        draw.rectangle((left, y, left + SWATCH, y + SWATCH), fill=color, outline="black")
        draw.text((left + SWATCH + GAP, y), name, fill="black", font=font)
    return canvas
