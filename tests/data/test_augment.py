import dataclasses
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from scipy import stats

from trash_seg.compose import compose_config
from trash_seg.data import augment as ours

LOG = compose_config(["augmentation=log"]).augmentation
STRONG = compose_config(["augmentation=strong"]).augmentation
SIZE = 96
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def sample(seed: int = 0, *, size: int = SIZE) -> tuple[Any, Any]:
    """A picture with smooth and sharp parts, and a mask of blocks."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    image[size // 3 : size // 2] = rng.integers(0, 256, (size // 2 - size // 3, size, 3))
    mask = cv2.resize(rng.integers(0, 12, (8, 8), np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    return image, mask


def drawn(config: Any, number: int, *seed: int) -> Any:
    return ours.draw(config, num_samples=number, rng=np.random.default_rng(seed))


def log_order_in_floats(image: Any, mask: Any, draws: Any, row: int) -> tuple[Any, Any]:
    """Normalise first, then flips, turn, blur and distortion on floats that nothing clips; back to grey levels."""
    values = (image.astype(np.float64) / 255 - MEAN) / STD
    if draws.horizontal[row]:
        values, mask = values[:, ::-1], mask[:, ::-1]
    if draws.vertical[row]:
        values, mask = values[::-1], mask[::-1]
    values, mask = np.rot90(values, draws.turns[row]), np.rot90(mask, draws.turns[row])
    values, mask = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(mask)
    values = cv2.filter2D(values, -1, draws.kernels[row], borderType=cv2.BORDER_REFLECT_101)
    if draws.distortion[row] != 0:
        base, slope = ours.distortion_field(*mask.shape)
        x, y = base + draws.distortion[row] * slope
        values = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        mask = cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return (values * STD + MEAN) * 255, mask


def test_equals_the_logs_order_in_floats_within_one_grey_level() -> None:
    number = 120
    draws = drawn(LOG, number, 21)
    for row in range(number):
        image, mask = sample(row % 7)
        result, result_mask = ours.augment(image, mask, draws=draws, row=row)
        expected, expected_mask = log_order_in_floats(image, mask, draws, row)
        assert np.abs(result - expected).max() <= 1
        assert np.array_equal(result_mask, expected_mask)
    seen = set(zip(draws.blurred.tolist(), (draws.distortion != 0).tolist(), draws.turns.tolist(), strict=True))
    assert len(seen) == 12, "some branch was never taken"


def test_a_row_depends_on_its_sample_alone() -> None:
    few, many = drawn(STRONG, 3, 5), drawn(STRONG, 40, 5)
    for short, long in zip(few, many, strict=True):
        assert np.array_equal(short, long[:3])


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_turn_is_flips_then_rot90(horizontal: bool, vertical: bool, turns: int) -> None:
    image, mask = sample()
    result, result_mask = ours.turn(image, mask, horizontal=horizontal, vertical=vertical, turns=turns)
    for given, got in ((image, result), (mask, result_mask)):
        expected = given[:, ::-1] if horizontal else given
        expected = expected[::-1] if vertical else expected
        assert np.array_equal(got, np.rot90(expected, turns))


def test_results_equal_albumentations_for_equal_parameters() -> None:
    image, mask = sample()
    rng = np.random.default_rng(3)
    for _ in range(20):
        kernel = ours.motion_kernels(rng.random((5, 1)))[0]
        blur = A.MotionBlur(p=1)
        assert np.array_equal(blur.apply(image, kernel=kernel), cv2.filter2D(image, -1, kernel))
        k = np.float32(rng.uniform(-0.05, 0.05))
        x, y = A.augmentations.geometric.functional.get_camera_matrix_distortion_maps((SIZE, SIZE), k)
        theirs = A.OpticalDistortion(border_mode=cv2.BORDER_REFLECT_101, p=1)
        result, result_mask = ours.distort(image, mask, k=k)
        base, slope = ours.distortion_field(SIZE, SIZE)
        assert np.abs(base + np.float32(k) * slope - np.stack([x, y])).max() < 1e-4  # px
        difference = np.abs(result.astype(int) - theirs.apply(image, map_x=x, map_y=y))
        assert (difference > 1).mean() < 0.01  # OpenCV rounds coordinates to 1/32 px
        assert (result_mask != theirs.apply_to_mask(mask, map_x=x, map_y=y)).mean() < 0.01


def line_features(kernel: Any) -> tuple[float, ...]:
    """Number of points, centre of mass and orientation of a motion kernel, about its middle."""
    y, x = np.nonzero(kernel)
    half = kernel.shape[0] // 2
    return len(x), x.mean() - half, y.mean() - half, np.ptp(x) - np.ptp(y)


def test_parameters_are_distributed_as_in_albumentations() -> None:
    number, rng = 3000, np.random.default_rng(7)
    blur, distortion = A.MotionBlur(p=1), A.OpticalDistortion(p=1)
    blur.set_random_seed(5)
    distortion.set_random_seed(6)
    own = np.array([line_features(kernel) for kernel in ours.motion_kernels(rng.random((5, number)))])
    theirs = np.array([line_features(blur.get_params()["kernel"]) for _ in range(number)])
    for column in range(own.shape[1]):
        assert stats.ks_2samp(own[:, column], theirs[:, column]).pvalue > 1e-3, column
    corner = [distortion.get_params_dependent_on_data({"shape": (8, 8)}, {})["map_x"][0, 0] for _ in range(number)]
    base, slope = ours.distortion_field(8, 8)
    k = drawn(LOG, 3 * number, 8).distortion
    own_corner = base[0, 0, 0] + k[k != 0] * slope[0, 0, 0]
    assert stats.ks_2samp(own_corner, corner).pvalue > 1e-3


def test_branches_are_taken_as_often_as_the_config_says() -> None:
    number = 4000
    draws = drawn(LOG, number, 1, 2)
    taken = {
        "horizontal": draws.horizontal, "vertical": draws.vertical, "turned": draws.turns > 0,
        "blurred": draws.blurred, "distorted": draws.distortion != 0, "both": draws.blurred & (draws.distortion != 0),
    }  # fmt: skip
    expected = {
        "horizontal": 1 / 2,
        "vertical": 1 / 2,
        "turned": 3 / 8,
        "blurred": 1 / 3,
        "distorted": 1 / 3,
        "both": 0,
    }
    for name, share in expected.items():
        count = int(taken[name].sum())
        assert stats.binomtest(count, number, share).pvalue > 1e-4, (name, count / number)
    assert stats.chisquare(np.bincount(draws.turns[draws.turns > 0])[1:]).pvalue > 1e-4


def test_distortion_reflects_at_the_border() -> None:
    image, mask = np.full((SIZE, SIZE, 3), 200, np.uint8), np.full((SIZE, SIZE), 5, np.uint8)
    for k in (-0.05, 0.05):
        result, result_mask = ours.distort(image, mask, k=k)
        assert (result == 200).all() and (result_mask == 5).all()


def test_strong_augmentation_keeps_shape_type_and_labels() -> None:
    always = dataclasses.replace(STRONG, affine=1.0, color_jitter=1.0)
    image, mask = sample()
    draws = drawn(always, 40, 3)
    results = [ours.augment(image, mask, draws=draws, row=row) for row in range(40)]
    for result, result_mask in results:
        assert (result.shape, result.dtype) == (image.shape, np.uint8)
        assert set(np.unique(result_mask)) <= set(np.unique(mask))
    brightness = [result.mean() / image.mean() for result, _ in results]
    assert 0.7 < min(brightness) < 0.95 and 1.03 < max(brightness) < 1.3
    assert len({result_mask.tobytes() for _, result_mask in results}) == len(results)


def test_image_and_mask_are_warped_alike() -> None:
    """Where the image is the mask, painted, they stay together through any geometry."""
    _, mask = sample()
    image = np.repeat((mask * 20)[..., None], 3, axis=2)
    geometry = dataclasses.replace(STRONG, affine=1.0, color_jitter=0.0, blur_or_distort=0.0)
    draws = drawn(geometry, 20, 4)
    for row in range(20):
        result, result_mask = ours.augment(image, mask, draws=draws, row=row)
        assert (np.abs(result[..., 0].astype(int) - result_mask.astype(int) * 20) > 10).mean() < 0.12
