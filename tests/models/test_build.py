import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from tests.conftest import memory_for
from trash_seg.compose import compose_config
from trash_seg.config import EncoderConfig
from trash_seg.errors import ConfigError, UnsupportedPairError, WeightsError, is_out_of_memory
from trash_seg.models import pretrained
from trash_seg.models.build import build_model
from trash_seg.models.pretrained import check_listed


def test_the_pair_is_smps_own_with_the_classes_of_the_data() -> None:
    torch.manual_seed(21)
    model = build_model(compose_config(["encoder=resnet18", "decoder=FPN"]))
    torch.manual_seed(21)
    reference = smp.FPN("resnet18", encoder_weights=None, classes=12)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))


def test_an_unsupported_pair_carries_smps_reason_in_one_line() -> None:
    with pytest.raises(UnsupportedPairError) as caught:
        build_model(compose_config(["encoder=resnet18", "decoder=DPT"]))
    assert "Only Timm encoders are supported" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_too_little_memory_is_no_reason_against_the_pair() -> None:
    """3 GB of weights within 200 MB."""
    config = compose_config(["encoder=resnext101_32x48d"])
    with memory_for(200 * 2**20), pytest.raises((MemoryError, RuntimeError)) as caught:
        build_model(config)
    assert is_out_of_memory(caught.value)


def test_an_image_size_that_does_not_divide_names_the_next() -> None:
    with pytest.raises(ConfigError, match=r"training.image_size=100: .*128, 128"):
        build_model(compose_config(["decoder=FPN", "training.image_size=100"]))


def test_a_wrong_decoder_option_is_an_error_not_an_unsupported_pair() -> None:
    with pytest.raises(ConfigError, match=r"decoder\.options\.depth_of_field: smp\.Unet has"):
        build_model(compose_config(["+decoder.options.depth_of_field=3"]))


def test_a_decoder_option_that_reads_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decoder\.options\.checkpoint_path: weights come by encoder\.weights"):
        build_model(compose_config(["+decoder.options.checkpoint_path=a.pth"]))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("activation=softmax2d", "the losses take logits"),
        ("aux_params={classes:2}", "the losses take one output"),
        ("in_channels=4", "images have the 3 channels of RGB"),
        ("classes=4", r"data\.classes decides it"),
    ],
)
def test_an_option_that_would_break_later_is_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"decoder\.options\.{option.partition('=')[0]}: {message}"):
        build_model(compose_config([f"+decoder.options.{option}"]))


def test_a_decoder_in_lower_case_takes_options() -> None:
    model = build_model(compose_config(["decoder.name=unet", "+decoder.options.decoder_channels=[64,32,16,8,8]"]))
    assert model.segmentation_head[0].in_channels == 8


def test_weights_from_a_folder_need_no_network(tmp_path: Path) -> None:
    brought = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    config = compose_config(["encoder.weights=imagenet", f"runtime.weights_dir={tmp_path}"])
    pretrained.save(brought, pretrained.weights_path(config.encoder, str(tmp_path)))
    loaded = build_model(config).encoder.state_dict()
    assert all(torch.equal(brought[name], tensor) for name, tensor in loaded.items())


def test_weights_fit_an_encoder_that_is_cut_to_fewer_stages(tmp_path: Path) -> None:
    brought = smp.encoders.get_encoder("efficientnet-b0", weights=None).state_dict()
    config = compose_config(
        ["encoder=efficientnet-b0", "decoder=PSPNet", "encoder.weights=imagenet", f"runtime.weights_dir={tmp_path}"]
    )
    pretrained.save(brought, pretrained.weights_path(config.encoder, str(tmp_path)))
    loaded = build_model(config).encoder.state_dict()
    assert all(torch.equal(brought[name], tensor) for name, tensor in loaded.items())


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    config = compose_config(["encoder.weights=imagenet", f"runtime.weights_dir={tmp_path}"])
    other = smp.encoders.get_encoder("resnet34", weights=None).state_dict()
    del other["conv1.weight"]
    pretrained.save(other, pretrained.weights_path(config.encoder, str(tmp_path)))
    with pytest.raises(WeightsError, match=r"1 of the encoder's weights are not in it, e.g. conv1.weight"):
        build_model(config)


def test_a_cut_weights_file_is_named(tmp_path: Path) -> None:
    config = compose_config(["encoder.weights=imagenet", f"runtime.weights_dir={tmp_path}"])
    path = pretrained.weights_path(config.encoder, str(tmp_path))
    path.write_bytes(b"\x10\x00")
    with pytest.raises(WeightsError, match=f"{path}: cannot be read"):
        build_model(config)


def test_without_folder_and_network_both_ways_out_are_named() -> None:
    with pytest.raises(WeightsError) as caught:
        build_model(compose_config(["encoder.weights=imagenet"]))
    assert "the hub did not give them (LocalEntryNotFoundError: An error happened" in str(caught.value)
    assert "python -m trash_seg.weights fetch encoder=resnet18" in str(caught.value)
    assert "encoder.weights=null" in str(caught.value)


def test_weights_that_smp_does_not_list_name_those_that_it_does() -> None:
    with pytest.raises(WeightsError, match="resnext101_32x4d has ssl, swsl, or null"):
        build_model(compose_config(["encoder=resnext101_32x4d", "encoder.weights=imagenet"]))


@pytest.mark.parametrize(
    ("encoder", "weights", "message"),
    [
        ("tu-resnet26t", "nonsense", "tu-resnet26t has imagenet, or null"),
        ("tu-coatnet_pico_rw_224", "imagenet", "tu-coatnet_pico_rw_224 has none: encoder.weights=null"),
    ],
)
def test_weights_that_timm_does_not_have_are_refused(encoder: str, weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        check_listed(EncoderConfig(encoder, weights))
