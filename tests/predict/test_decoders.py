"""Every decoder, on every odd image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.predict.conftest import Predict, make_run, random_image

DECODERS = sorted(path.stem for path in (ROOT / "conf" / "decoder").glob("*.yaml"))
SETTINGS = {
    "DPT": ("encoder=timm", "encoder.name=tu-vit_tiny_patch16_224", "training.image_size=224"),
    "PAN": ("encoder=mobilenet_v2", "training.image_size=128"),
}
"""DPT needs a vision transformer, and that its own size; PAN pools what is below 128 px away."""


def odd_images(folder: Path) -> dict[str, tuple[int, int]]:
    """File name → (height, width) upright."""
    folder.mkdir()
    random_image(folder / "one.png", 1, 1)
    random_image(folder / "thin.png", 5000, 3)
    random_image(folder / "odd.jpg", 777, 333)
    random_image(folder / "grey.png", 50, 40, mode="L")
    random_image(folder / "palette.gif", 50, 40, mode="P")
    random_image(folder / "alpha.webp", 50, 40, mode="RGBA")
    random_image(folder / "cmyk.jpg", 50, 40, mode="CMYK")
    values = np.random.default_rng(0).integers(0, 2**16, (40, 50), dtype=np.uint16)
    Image.fromarray(values).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    random_image(folder / "turned.jpg", 60, 20, exif=exif)
    small = (40, 50)
    sizes = {"one.png": (1, 1), "thin.png": (3, 5000), "odd.jpg": (333, 777), "turned.jpg": (60, 20)}
    return {**sizes, **dict.fromkeys(("grey.png", "palette.gif", "alpha.webp", "cmyk.jpg", "deep.png"), small)}


@pytest.mark.parametrize(
    "decoder", [name if name in ("FPN", "Unet") else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS]
)
def test_every_decoder_predicts_odd_images_one_at_a_time(decoder: str, tmp_path: Path, predict: Predict) -> None:
    settings = SETTINGS.get(decoder, ("encoder=mobilenet_v2",))
    run = make_run(tmp_path / "runs", *settings, f"decoder={decoder}")
    sizes = odd_images(tmp_path / "in")
    options = ("--masks", tmp_path / "m", "--overlays", tmp_path / "o", "--batch-size", 1)
    completed = predict(run, "--data", tmp_path / "in", *options)
    assert completed.code == 0, completed.output
    for name, size in sizes.items():
        with Image.open(tmp_path / "m" / Path(name).with_suffix(".png")) as image:
            mask = np.asarray(image)
        assert mask.shape == size, name
        assert mask.max() < 12
    assert len(list((tmp_path / "o").iterdir())) == len(sizes)
