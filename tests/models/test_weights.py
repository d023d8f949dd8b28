"""Weights are brought on one machine and used on another. The hub is a function of the test's."""

from pathlib import Path

import pytest
import torch

from trash_seg.compose import compose_config
from trash_seg.models import pretrained
from trash_seg.models.build import build_model
from trash_seg.weights import main


def test_what_is_fetched_is_what_a_run_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def download(config):
        asked.append((config.encoder.name, config.encoder.weights))
        torch.manual_seed(7)
        return build_model(compose_config([f"encoder={config.encoder.name}"])).encoder.state_dict()

    monkeypatch.setattr(pretrained, "download", download)
    folder = f"runtime.weights_dir={tmp_path}"
    assert main(["fetch", "encoder=resnet18,resnet34", folder]) == 0
    assert asked == [("resnet18", "imagenet"), ("resnet34", "imagenet")]
    assert {path.name for path in tmp_path.iterdir()} == {
        "resnet18-imagenet.safetensors",
        "resnet34-imagenet.safetensors",
    }
    capsys.readouterr()
    assert main(["fetch", "encoder=resnet18", folder]) == 0
    assert "resnet18-imagenet.safetensors is there already" in capsys.readouterr().out
    assert len(asked) == 2
    expected = download(compose_config([]))
    torch.manual_seed(8)
    loaded = build_model(compose_config(["encoder.weights=imagenet", folder])).encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch"], "encoder is missing"),
        (["fetch", "encoder=resnet18", "encoder.weights=null"], "there is nothing to fetch"),
        (["fetch", "encoder=resnet18", "encoder.weights=imagenett"], "resnet18 has imagenet, ssl, swsl, or null"),
        (["fetch", "encoder=resnet18"], "cannot be fetched (LocalEntryNotFoundError"),
    ],
)
def test_what_cannot_be_fetched_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, f"runtime.weights_dir={tmp_path}"]) != 0
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
    assert list(tmp_path.iterdir()) == []
