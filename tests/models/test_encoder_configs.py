from segmentation_models_pytorch.encoders import encoders

from scripts.encoder_configs import ENCODER_DIR, render
from trash_seg.compose import compose_config


def test_conf_encoder_is_smps_registry() -> None:
    """Run `python scripts/encoder_configs.py` after an update of SMP."""
    committed = {path.name: path.read_text() for path in ENCODER_DIR.iterdir()}
    assert committed == render()
    assert {name.removesuffix(".yaml") for name in committed} == {*encoders, "timm"}


def test_any_timm_encoder_composes() -> None:
    config = compose_config(["encoder=timm", "encoder.name=tu-convnext_tiny"])
    assert config.run_id.startswith("tu-convnext_tiny-Unet-s21-")
    assert config.encoder.weights is None  # the toy dataset trains from scratch


def test_real_data_defaults_to_imagenet_weights() -> None:
    assert compose_config(["data=trash", "data.root=x", "encoder=mit_b0"]).encoder.weights == "imagenet"
