"""Augmentation of uint8 images and their masks. Parameters are drawn as albumentations 2.0.8 draws its defaults.

albumentations' `Compose` costs more than the operations themselves; here the parameters of a whole epoch are drawn at
once (`draw`) and go straight to OpenCV (`augment`), or to the device (`data/device.py`). Tests hold their distributions
and results against albumentations.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from trash_seg.config import AugmentationConfig

Pixels = npt.NDArray[Any]  # uint8; OpenCV's stubs say no more
Floats = npt.NDArray[np.float32]
Uniforms = npt.NDArray[np.float64]

BLUR_SIZES = np.array([3, 5, 7])
MAX_BLUR = 7
MAX_DISTORTION = 0.05
BORDER = cv2.BORDER_REFLECT_101
SCALES, MAX_TURN, MAX_SHIFT = (0.8, 1.25), 15.0, 0.06
MAX_COLOR, MAX_HUE = 0.2, 0.02

cv2.setNumThreads(1)  # on images this small its threads cost more than they bring, and they take the trainer's cores


class Draws(NamedTuple):
    """What happens to each of N samples in an epoch, a row a sample."""

    horizontal: npt.NDArray[np.bool_]
    """(N,) flipped left-right."""
    vertical: npt.NDArray[np.bool_]
    """(N,) then flipped up-down."""
    turns: npt.NDArray[np.int64]
    """(N,) then turned so often by 90° counter-clockwise, 0 to 3."""
    blurred: npt.NDArray[np.bool_]
    """(N,)"""
    kernels: Floats
    """(N, 7, 7) of the blur, sum 1; a single 1 in the middle where there is none."""
    distortion: Floats
    """(N,) k of `distort`, 0 for none."""
    warps: Floats
    """(N, 4) scale, angle in degrees, and shift in x and y as shares of the side; (1, 0, 0, 0) for none."""
    colors: Floats
    """(N, 4) factors of brightness, contrast and saturation, shift of the hue in turns; (1, 1, 1, 0) for none."""


NO_WARP, NO_COLOR = np.array([1, 0, 0, 0], np.float32), np.array([1, 1, 1, 0], np.float32)


def draw(config: AugmentationConfig, *, num_samples: int, rng: np.random.Generator) -> Draws:
    """Draws the parameters of an epoch. Row i depends on `rng` and i alone, not on the number of samples."""
    numbers = rng.random((num_samples, 22)).T
    chances, turns, blur, distortion, warp, color = np.split(numbers, np.cumsum([7, 1, 5, 1, 4]))
    either, blurs = chances[3] < config.blur_or_distort, chances[4] < 0.5
    blurred = either & blurs
    kernels = np.zeros((num_samples, MAX_BLUR, MAX_BLUR), np.float32)
    kernels[:, MAX_BLUR // 2, MAX_BLUR // 2] = 1
    kernels[blurred] = motion_kernels(blur[:, blurred])
    low = [math.log(SCALES[0]), -MAX_TURN, -MAX_SHIFT, -MAX_SHIFT]
    warps = _between(warp.T, low, [math.log(SCALES[1]), MAX_TURN, MAX_SHIFT, MAX_SHIFT])
    warps[:, 0] = np.exp(warps[:, 0])
    bounds = np.array([MAX_COLOR, MAX_COLOR, MAX_COLOR, MAX_HUE])
    return Draws(
        horizontal=chances[0] < config.horizontal_flip,
        vertical=chances[1] < config.vertical_flip,
        turns=np.where(chances[2] < config.rotate90, 4 * turns[0], 0).astype(np.int64),
        blurred=blurred,
        kernels=kernels,
        distortion=np.where(either & ~blurs, _between(distortion[0], -MAX_DISTORTION, MAX_DISTORTION), 0).astype("f4"),
        warps=np.where(chances[5, :, None] < config.affine, warps, NO_WARP).astype("f4"),
        colors=np.where(
            chances[6, :, None] < config.color_jitter, NO_COLOR + _between(color.T, -bounds, bounds), NO_COLOR
        ).astype("f4"),
    )


def _between(chances: Uniforms, low: npt.ArrayLike, high: npt.ArrayLike) -> Uniforms:
    low, high = np.asarray(low), np.asarray(high)
    return np.asarray(low + (high - low) * chances, np.float64)


def augment(image: Pixels, mask: Pixels, *, draws: Draws, row: int) -> tuple[Pixels, Pixels]:
    """One random version of a sample.

    Args:
        image: (S, S, 3) uint8 RGB.
        mask: (S, S) uint8 class index. Masks are always resampled to the nearest pixel.
        draws: The epoch's.
        row: The sample's.

    Returns:
        Image and mask of the same shapes; possibly the very arrays given.
    """
    image, mask = turn(
        image, mask, horizontal=bool(draws.horizontal[row]), vertical=bool(draws.vertical[row]),
        turns=int(draws.turns[row]),
    )  # fmt: skip
    if draws.blurred[row]:
        image = cv2.filter2D(image, -1, draws.kernels[row], borderType=BORDER)
    if draws.distortion[row] != 0:
        image, mask = distort(image, mask, k=draws.distortion[row])
    if (draws.warps[row] != NO_WARP).any():
        image, mask = warp(image, mask, draws.warps[row])
    if (draws.colors[row] != NO_COLOR).any():
        image = jitter_color(image, draws.colors[row])
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


def motion_kernels(chances: Uniforms) -> Floats:
    """Lines of equal weights with random size, angle, direction and shift: `A.MotionBlur()`.

    Args:
        chances: (5, N) in [0, 1), of size, angle, direction, shift in x and in y.

    Returns:
        (N, 7, 7) float32 with sum 1; those of size 3 and 5 have zeros around them.
    """
    size = BLUR_SIZES[(chances[0] * len(BLUR_SIZES)).astype(int)]
    half = size // 2
    angle = 2 * math.pi * chances[1]
    direction, shift_x, shift_y = 2 * chances[2:] - 1
    first, last = -half * (1 - np.maximum(direction, 0)), half * (1 + np.minimum(direction, 0))
    point = np.minimum(np.arange(MAX_BLUR)[:, None], size - 1)  # the last ones coincide: a line has `size` points
    t = first + (last - first) * point / (size - 1)
    x, y = (
        np.rint(half + trace * t + shift * half / 2).clip(0, size - 1).astype(int) + MAX_BLUR // 2 - half
        for trace, shift in ((np.cos(angle), shift_x), (np.sin(angle), shift_y))
    )
    kernels = np.zeros((len(size), MAX_BLUR, MAX_BLUR), np.float32)
    kernels[np.arange(len(size)), y, x] = 1
    kernels /= kernels.sum(axis=(1, 2), keepdims=True)
    return kernels


def distort(image: Pixels, mask: Pixels, *, k: float) -> tuple[Pixels, Pixels]:
    """Barrel or pincushion distortion with k1 = k2 = k: `A.OpticalDistortion()` with reflected borders."""
    base, slope = distortion_field(*mask.shape)
    x, y = base + np.float32(k) * slope
    image = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=BORDER)
    mask = cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=BORDER)
    return image, mask


@lru_cache(maxsize=4)
def distortion_field(height: int, width: int) -> tuple[Floats, Floats]:
    """Source coordinates of each pixel as base + k · slope, both (2, height, width) float32, x before y.

    OpenCV's camera model x · (1 + k1 r² + k2 r⁴) is linear in k where k1 = k2, so one field serves every k.
    """
    camera = np.array([[width, 0, width / 2], [0, height, height / 2], [0, 0, 1]], np.float64)

    def field(k: float) -> Floats:
        model = np.array([k, k, 0, 0, 0])
        maps = cv2.initUndistortRectifyMap(camera, model, np.eye(3), np.empty(0), (width, height), cv2.CV_32FC1)
        return np.stack(maps).astype(np.float32)

    base = field(0)
    return base, field(1) - base


def warp(image: Pixels, mask: Pixels, parameters: Floats) -> tuple[Pixels, Pixels]:
    """Scales, turns and shifts about the centre, as a row of `Draws.warps` says; borders reflect."""
    height, width = mask.shape
    scale, angle, *shares = parameters.tolist()
    shift = np.array(shares) * (width, height)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    matrix[:, 2] = matrix[:, 2] + shift
    size = (width, height)
    image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=BORDER)
    mask = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST, borderMode=BORDER)
    return image, mask


def jitter_color(image: Pixels, parameters: Floats) -> Pixels:
    """Scales brightness, contrast (about the mean) and saturation (about grey), and shifts the hue."""
    brightness, contrast, saturation, turn = parameters.tolist()
    hue = round(turn * 256)
    mean = float(image.mean()) * brightness
    table = (brightness * contrast * np.arange(256) + mean * (1 - contrast)).round().clip(0, 255).astype(np.uint8)
    hsv = cv2.cvtColor(cv2.LUT(image, table), cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(hue % 256)  # wraps around, as hues do
    hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=saturation)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
