"""Augmentation of uint8 images and their masks. Parameters are drawn as albumentations 2.0.8 draws its defaults.

albumentations' `Compose` costs more than the operations themselves; here parameters go straight to OpenCV, and a test
holds their distributions and results against albumentations.
"""

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trash_seg.config import AugmentationConfig

Pixels = npt.NDArray[Any]  # uint8; OpenCV's stubs say no more
Floats = npt.NDArray[np.float32]

BLUR_SIZES = (3, 5, 7)
MAX_DISTORTION = 0.05
BORDER = cv2.BORDER_REFLECT_101
SCALES, MAX_TURN, MAX_SHIFT = (0.8, 1.25), 15.0, 0.06
MAX_COLOR, MAX_HUE = 0.2, 0.02

cv2.setNumThreads(1)  # on images this small its threads cost more than they bring, and they take the trainer's cores


def augment(
    image: Pixels, mask: Pixels, *, config: AugmentationConfig, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """One random version of a sample.

    Args:
        image: (S, S, 3) uint8 RGB.
        mask: (S, S) uint8 class index. Masks are always resampled to the nearest pixel.
        config: Probabilities.
        rng: The sample's own.

    Returns:
        Image and mask of the same shapes; possibly the very arrays given.
    """
    chances = rng.random(7)
    turns = int(rng.integers(4)) if chances[2] < config.rotate90 else 0
    image, mask = turn(
        image, mask, horizontal=chances[0] < config.horizontal_flip, vertical=chances[1] < config.vertical_flip,
        turns=turns,
    )  # fmt: skip
    if chances[3] < config.blur_or_distort:
        if chances[4] < 0.5:
            image = cv2.filter2D(image, -1, motion_kernel(rng), borderType=BORDER)
        else:
            image, mask = distort(image, mask, k=rng.uniform(-MAX_DISTORTION, MAX_DISTORTION))
    if chances[5] < config.affine:
        image, mask = warp(image, mask, rng=rng)
    if chances[6] < config.color_jitter:
        image = jitter_color(image, rng=rng)
    return image, mask


def turn(image: Pixels, mask: Pixels, *, horizontal: bool, vertical: bool, turns: int) -> tuple[Pixels, Pixels]:
    """Flips left-right, then up-down, then turns by `turns` · 90° counter-clockwise, in at most two passes."""
    transpose = turns % 2 == 1
    if transpose:  # a turn by 90° is a transposition followed by an up-down flip
        horizontal, vertical = vertical, not horizontal
    if turns >= 2:
        horizontal, vertical = not horizontal, not vertical
    if transpose:
        image, mask = cv2.transpose(image), cv2.transpose(mask)
    if horizontal or vertical:
        code = -1 if horizontal and vertical else int(horizontal)
        image, mask = cv2.flip(image, code), cv2.flip(mask, code)
    return image, mask


def motion_kernel(rng: np.random.Generator) -> Floats:
    """A line of equal weights with random size, angle, direction and shift: `A.MotionBlur()`.

    Returns:
        (K, K) float32 with sum 1, K in BLUR_SIZES.
    """
    size = BLUR_SIZES[rng.integers(len(BLUR_SIZES))]
    half = size // 2
    angle = rng.uniform(0, 2 * math.pi)
    direction, shift_x, shift_y = rng.uniform(-1, 1, 3)
    t = np.linspace(-half * (1 - max(direction, 0.0)), half * (1 + min(direction, 0.0)), size)
    x = np.rint(half + math.cos(angle) * t + shift_x * half / 2).clip(0, size - 1).astype(np.intp)
    y = np.rint(half + math.sin(angle) * t + shift_y * half / 2).clip(0, size - 1).astype(np.intp)
    kernel = np.zeros((size, size), np.float32)
    kernel[y, x] = 1
    kernel /= kernel.sum()
    return kernel


def distort(image: Pixels, mask: Pixels, *, k: float) -> tuple[Pixels, Pixels]:
    """Barrel or pincushion distortion with k1 = k2 = k: `A.OpticalDistortion()` with reflected borders."""
    identity, slope = _distortion_field(*mask.shape)
    x, y = identity + np.float32(k) * slope
    image = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=BORDER)
    mask = cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=BORDER)
    return image, mask


@lru_cache(maxsize=4)
def _distortion_field(height: int, width: int) -> tuple[Floats, Floats]:
    """Source coordinates of each pixel as identity + k · slope, both (2, height, width) float32, x before y.

    OpenCV's camera model x · (1 + k1 r² + k2 r⁴) is linear in k where k1 = k2, so one field serves every k.
    """
    camera = np.array([[width, 0, width / 2], [0, height, height / 2], [0, 0, 1]], np.float64)

    def field(k: float) -> Floats:
        model = np.array([k, k, 0, 0, 0])
        maps = cv2.initUndistortRectifyMap(camera, model, np.eye(3), np.empty(0), (width, height), cv2.CV_32FC1)
        return np.stack(maps).astype(np.float32)

    identity = field(0)
    return identity, field(1) - identity


def warp(image: Pixels, mask: Pixels, *, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Scales (log-uniformly), turns and shifts about the centre; borders reflect."""
    height, width = mask.shape
    scale = math.exp(rng.uniform(*np.log(SCALES)))
    angle = rng.uniform(-MAX_TURN, MAX_TURN)
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * (width, height)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    matrix[:, 2] = matrix[:, 2] + shift
    size = (width, height)
    image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=BORDER)
    mask = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST, borderMode=BORDER)
    return image, mask


def jitter_color(image: Pixels, *, rng: np.random.Generator) -> Pixels:
    """Scales brightness, contrast (about the mean) and saturation (about grey), and shifts the hue."""
    brightness, contrast, saturation = rng.uniform(1 - MAX_COLOR, 1 + MAX_COLOR, 3)
    hue = round(rng.uniform(-MAX_HUE, MAX_HUE) * 256)
    mean = float(image.mean()) * brightness
    table = (brightness * contrast * np.arange(256) + mean * (1 - contrast)).round().clip(0, 255).astype(np.uint8)
    hsv = cv2.cvtColor(cv2.LUT(image, table), cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(hue % 256)  # wraps around, as hues do
    hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=saturation)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
