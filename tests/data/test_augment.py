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


class ParametersOf:
    """Records what `augment` draws, so that albumentations can be given the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turn: dict[str, Any] = {}
        self.kernel: Any = None
        self.k: float | None = None
        turn, motion_kernel, distort = ours.turn, ours.motion_kernel, ours.distort

        def record_turn(image: Any, mask: Any, **given: Any) -> Any:
            self.turn = given
            return turn(image, mask, **given)

        def record_kernel(rng: np.random.Generator) -> Any:
            self.kernel = motion_kernel(rng)
            return self.kernel

        def record_distort(image: Any, mask: Any, *, k: float) -> Any:
            self.k = k
            return distort(image, mask, k=k)

        monkeypatch.setattr(ours, "turn", record_turn)
        monkeypatch.setattr(ours, "motion_kernel", record_kernel)
        monkeypatch.setattr(ours, "distort", record_distort)


def log_order_in_floats(image: Any, mask: Any, drawn: ParametersOf) -> tuple[Any, Any]:
    """Normalise first, then flips, turn, blur and distortion on floats that nothing clips; back to grey levels."""
    values = (image.astype(np.float64) / 255 - MEAN) / STD
    if drawn.turn["horizontal"]:
        values, mask = values[:, ::-1], mask[:, ::-1]
    if drawn.turn["vertical"]:
        values, mask = values[::-1], mask[::-1]
    values, mask = np.rot90(values, drawn.turn["turns"]), np.rot90(mask, drawn.turn["turns"])
    values, mask = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(mask)
    if drawn.kernel is not None:
        values = cv2.filter2D(values, -1, drawn.kernel, borderType=cv2.BORDER_REFLECT_101)
    if drawn.k is not None:
        identity, slope = ours._distortion_field(*mask.shape)
        x, y = identity + np.float32(drawn.k) * slope
        values = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        mask = cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return (values * STD + MEAN) * 255, mask


def test_equals_the_logs_order_in_floats_within_one_grey_level(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for seed in range(120):
        drawn = ParametersOf(monkeypatch)
        image, mask = sample(seed % 7)
        result, result_mask = ours.augment(image, mask, config=LOG, rng=np.random.default_rng((21, 0, seed)))
        expected, expected_mask = log_order_in_floats(image, mask, drawn)
        assert np.abs(result - expected).max() <= 1
        assert np.array_equal(result_mask, expected_mask)
        seen.add((drawn.kernel is not None, drawn.k is not None, drawn.turn["turns"]))
        monkeypatch.undo()
    assert len(seen) == 12, "some branch was never taken"


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
        kernel = ours.motion_kernel(rng)
        blur = A.MotionBlur(p=1)
        assert np.array_equal(blur.apply(image, kernel=kernel), cv2.filter2D(image, -1, kernel))
        k = rng.uniform(-0.05, 0.05)
        x, y = A.augmentations.geometric.functional.get_camera_matrix_distortion_maps((SIZE, SIZE), k)
        theirs = A.OpticalDistortion(border_mode=cv2.BORDER_REFLECT_101, p=1)
        result, result_mask = ours.distort(image, mask, k=k)
        identity, slope = ours._distortion_field(SIZE, SIZE)
        assert np.abs(identity + np.float32(k) * slope - np.stack([x, y])).max() < 1e-4  # px
        difference = np.abs(result.astype(int) - theirs.apply(image, map_x=x, map_y=y))
        assert (difference > 1).mean() < 0.01  # OpenCV rounds coordinates to 1/32 px
        assert (result_mask != theirs.apply_to_mask(mask, map_x=x, map_y=y)).mean() < 0.01


def line_features(kernel: Any) -> tuple[float, ...]:
    """Size, number of points, centre of mass and orientation of a motion kernel."""
    y, x = np.nonzero(kernel)
    half = kernel.shape[0] // 2
    return kernel.shape[0], len(x), (x.mean() - half) / half, (y.mean() - half) / half, np.ptp(x) - np.ptp(y)


def test_parameters_are_distributed_as_in_albumentations() -> None:
    number, rng = 3000, np.random.default_rng(7)
    blur, distortion = A.MotionBlur(p=1), A.OpticalDistortion(p=1)
    blur.set_random_seed(5)
    distortion.set_random_seed(6)
    own = np.array([line_features(ours.motion_kernel(rng)) for _ in range(number)])
    theirs = np.array([line_features(blur.get_params()["kernel"]) for _ in range(number)])
    for column in range(own.shape[1]):
        assert stats.ks_2samp(own[:, column], theirs[:, column]).pvalue > 1e-3, column
    corner = [distortion.get_params_dependent_on_data({"shape": (8, 8)}, {})["map_x"][0, 0] for _ in range(number)]
    own_corner = [ours._distortion_field(8, 8)[0][0, 0, 0] + k * ours._distortion_field(8, 8)[1][0, 0, 0]
                  for k in rng.uniform(-ours.MAX_DISTORTION, ours.MAX_DISTORTION, number)]  # fmt: skip
    assert stats.ks_2samp(own_corner, corner).pvalue > 1e-3


def test_branches_are_taken_as_often_as_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    number, image, mask = 4000, *sample(size=8)
    counts = dict.fromkeys(["horizontal", "vertical", "turned", "blurred", "distorted"], 0)
    drawn = ParametersOf(monkeypatch)
    for index in range(number):
        drawn.kernel = drawn.k = None
        ours.augment(image, mask, config=LOG, rng=np.random.default_rng((1, 2, index)))
        counts["horizontal"] += drawn.turn["horizontal"]
        counts["vertical"] += drawn.turn["vertical"]
        counts["turned"] += drawn.turn["turns"] > 0
        counts["blurred"] += drawn.kernel is not None
        counts["distorted"] += drawn.k is not None
    expected = {"horizontal": 1 / 2, "vertical": 1 / 2, "turned": 3 / 8, "blurred": 1 / 3, "distorted": 1 / 3}
    for name, share in expected.items():
        assert stats.binomtest(counts[name], number, share).pvalue > 1e-4, (name, counts[name] / number)


def test_distortion_reflects_at_the_border() -> None:
    image, mask = np.full((SIZE, SIZE, 3), 200, np.uint8), np.full((SIZE, SIZE), 5, np.uint8)
    for k in (-0.05, 0.05):
        result, result_mask = ours.distort(image, mask, k=k)
        assert (result == 200).all() and (result_mask == 5).all()


def test_strong_augmentation_keeps_shape_type_and_labels() -> None:
    always = dataclasses.replace(STRONG, affine=1.0, color_jitter=1.0)
    image, mask = sample()
    results = [ours.augment(image, mask, config=always, rng=np.random.default_rng(i)) for i in range(40)]
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
    for seed in range(20):
        result, result_mask = ours.augment(image, mask, config=geometry, rng=np.random.default_rng(seed))
        assert (np.abs(result[..., 0].astype(int) - result_mask.astype(int) * 20) > 10).mean() < 0.12
