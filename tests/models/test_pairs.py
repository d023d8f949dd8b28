"""The shipped table and the cache are held against SMP itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import ROOT, command_environment
from trash_seg.models import pairs
from trash_seg.models.pairs import TABLE_PATH, Pair, facts, listed_weights

SAMPLE = [("resnet18", "Unet"), ("mobilenet_v2", "DeepLabV3Plus"), ("timm-skresnet18", "FPN"), ("mit_b0", "Segformer")]


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
@pytest.mark.parametrize(("encoder", "decoder"), SAMPLE)
@pytest.mark.parametrize("num_classes", [2, 12])
def test_the_table_is_what_smp_builds(encoder, decoder, num_classes, tmp_path: Path) -> None:
    entry = facts([Pair(encoder, decoder)], num_classes=num_classes, image_size=64, cache_dir=tmp_path)
    assert not any(tmp_path.iterdir())  # nothing had to be built
    model = smp.create_model(decoder, encoder, encoder_weights=None, classes=num_classes).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 64))
    known = entry[Pair(encoder, decoder)]
    assert known.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert known.gflops == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-12)
    assert known.reason is None


REFUSED = Pair("tu-vit_tiny_patch16_224", "DeepLabV3")
"""By SMP, which finds no pyramid of features in it."""


def test_the_table_knows_every_pair_and_why_some_cannot_be_built(tmp_path: Path) -> None:
    decoders = [architecture.__name__ for architecture in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    grid = [Pair(encoder, decoder) for encoder in smp.encoders.encoders for decoder in decoders]
    known = facts(grid, num_classes=12, image_size=256, cache_dir=tmp_path)
    assert not any(tmp_path.iterdir())
    assert len(grid) == 912
    assert sum(entry.reason is not None for entry in known.values()) == 133
    with pytest.raises(ValueError) as refusal:
        smp.create_model("DeepLabV3", "vgg11", encoder_weights=None)
    assert known[Pair("vgg11", "DeepLabV3")].reason == str(refusal.value)


def test_listed_weights_are_smps() -> None:
    assert listed_weights() == {
        name: list(entry["pretrained_settings"]) for name, entry in smp.encoders.encoders.items()
    }


def test_what_no_table_knows_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = Pair("resnet18", "Unet", '{"decoder_channels": [64, 32, 16, 8, 8]}')
    asked = [narrow, Pair("tu-resnet10t", "Unet"), REFUSED, Pair("resnet18", "Unet")]
    setting = {"num_classes": 3, "image_size": 96, "cache_dir": tmp_path}
    told: list[tuple[int, int]] = []
    first = facts(asked, **setting, report=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)  # 96 px stand in no table
    model = smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=[64, 32, 16, 8, 8])
    assert first[narrow].parameters == sum(parameter.numel() for parameter in model.parameters())
    assert first[Pair("tu-resnet10t", "Unet")].gflops
    assert first[REFUSED].reason
    with monkeypatch.context() as no_building:
        no_building.setattr(pairs, "_build_all", None)  # would be an error if it were called
        assert facts(asked, **setting) == first
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text()[:10])
    assert pairs._Cache(tmp_path, num_classes=3, image_size=96).read() == {}  # a damaged cache is no cache


@pytest.mark.slow
def test_facts_that_cannot_be_kept_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache_dir = tmp_path / "cache"
    cache_dir.write_text("a file")
    assert facts([REFUSED], num_classes=3, image_size=96, cache_dir=cache_dir)[REFUSED].reason
    assert f"runtime.cache_dir={cache_dir}: what is known of 1 pairs cannot be kept there" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_too_little_memory_is_not_kept_as_a_reason() -> None:
    """SMP's mit encoders read values while they are built, so they take memory even on the meta device.

    In a process of its own: this one has memory left from earlier tests.
    """
    code = """
import segmentation_models_pytorch
from tests.conftest import memory_for
from trash_seg.models.pairs import Pair, _build_facts
with memory_for(60 * 2**20):
    print(_build_facts(Pair("mit_b5", "Unet"), num_classes=12, image_size=64))
"""
    command, environment = [sys.executable, "-c", code], {**command_environment(), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert "UserError: mit_b5 × Unet: cannot be built on this machine now" in answer.stderr


def test_another_smp_version_does_not_use_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "version", lambda name: "99.0")
    assert not pairs._table_fits()
    assert TABLE_PATH.exists()
