"""Held against the experiment log's own way of working, on its own kind of photographs."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.conftest import PEER, TRASH190, needs_trash190
from trash_seg.compose import compose_config
from trash_seg.data.dataset import open_dataset
from trash_seg.data.loader import Loader
from trash_seg.engine.loss import build_loss
from trash_seg.engine.metrics import mean_iou
from trash_seg.engine.step import Step
from trash_seg.models.build import build_model

pytestmark = [needs_trash190, pytest.mark.skipif(not PEER.exists(), reason=f"{PEER} is not there")]
SIZE = 64


def load_peer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer", PEER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_loss_gradient_and_pooled_miou_agree_with_the_peer() -> None:
    overrides = ["data=trash", f"data.root={TRASH190}", "training=log", f"training.image_size={SIZE}"]
    config = compose_config(
        [*overrides, "encoder.weights=null", "optimizer=sgd", "optimizer.lr=1e-30", "training.channels_last=false"]
    )
    torch.manual_seed(21)
    model = build_model(config)
    peer = load_peer()
    peer_data = peer.Trash(TRASH190, "val", peer.transforms(SIZE)[1])
    peer_images, peer_masks = (
        torch.stack(list(column)) for column in zip(*(peer_data[i] for i in range(40)), strict=True)
    )

    dataset = open_dataset(config.data, image_size=SIZE, runtime=config.runtime)
    loader = Loader(dataset.val, batch_size=40)
    ((images, masks),) = loader.epoch(0)
    assert torch.equal(masks.long(), peer_masks)

    device = torch.device("cpu")
    criterion = build_loss(config.loss, pixels=dataset.pixels, device=device)
    step = Step(model, config=config, criterion=criterion, steps_per_epoch=1, device=device)
    assert torch.equal(step.forward.normalize(images), peer_images)

    loss = step.train(images, masks)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    torch.manual_seed(21)
    peer_model = build_model(config).train()
    peer_loss = torch.nn.CrossEntropyLoss()(peer_model(peer_images), peer_masks)
    peer_loss.backward()
    peer_norm = torch.nn.utils.get_total_norm([p.grad for p in peer_model.parameters()])
    assert float(loss) == pytest.approx(float(peer_loss.detach()), rel=1e-5)
    assert float(norm) == pytest.approx(float(peer_norm), rel=1e-5)

    step.model.eval(), peer_model.eval()
    counts = step.validate(images, masks)[1].numpy().sum(0)
    with torch.no_grad():
        prediction = peer_model(peer_images).argmax(1).numpy()
    # The peer's own formula, line for line.
    hist = np.bincount(12 * peer_masks.numpy().ravel() + prediction.ravel(), minlength=144).reshape(12, 12)
    with np.errstate(invalid="ignore"):
        iou = np.diag(hist) / (hist.sum(0) + hist.sum(1) - np.diag(hist))
    assert float(mean_iou(counts)) == pytest.approx(float(np.nanmean(iou)), rel=1e-5)
