import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference

from trash_seg.engine.metrics import class_iou, mean_iou, score
from trash_seg.engine.step import count_confusion


def test_hand_worked_2x2() -> None:
    # truth 0 0 / 1 1, prediction 0 1 / 1 1: class 0 meets in 1 of 2 pixels, class 1 in 2 of 3.
    truth, prediction = torch.tensor([[[0, 0], [1, 1]]]), torch.tensor([[[0, 1], [1, 1]]])
    counts = count_confusion(truth, prediction, num_classes=2).numpy()
    assert counts.tolist() == [[[1, 1], [0, 2]]]
    assert class_iou(counts[0]).tolist() == [1 / 2, 2 / 3]
    assert mean_iou(counts[0]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_pooled_iou_agrees_with_torchmetrics_also_where_classes_are_absent() -> None:
    generator = torch.Generator().manual_seed(0)
    for trial in range(20):
        truth = torch.randint(0, 3 + trial % 4, (5, 9, 11), generator=generator)
        prediction = torch.randint(0, 4 + trial % 3, (5, 9, 11), generator=generator)
        counts = count_confusion(truth, prediction, num_classes=8).numpy().sum(0)
        matrix = reference.multiclass_confusion_matrix(prediction, truth, num_classes=8).numpy()
        assert (counts == matrix).all()
        jaccard = reference.multiclass_jaccard_index(prediction, truth, num_classes=8, average="none").numpy()
        iou = class_iou(counts)
        present = ~np.isnan(iou)
        np.testing.assert_allclose(iou[present], jaccard[present], rtol=1e-6)
        macro = reference.multiclass_jaccard_index(prediction, truth, num_classes=8, average="macro")
        assert mean_iou(counts) == pytest.approx(float(macro), rel=1e-6)


def test_three_mious_by_hand() -> None:
    # Three images of one pixel row each: right, half right in class 1, wrong.
    counts = np.zeros((3, 2, 2), np.int64)
    counts[0] = [[4, 0], [0, 0]]  # only class 0: 1
    counts[1] = [[0, 0], [2, 2]]  # class 0: 0 of 2, class 1: 2 of 4 → 1/4
    counts[2] = [[0, 4], [0, 0]]  # 0 and 0 → 0
    scores = score(counts, classes=["a", "b"], batch_size=2)
    assert scores.miou_image == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert scores.miou_batch == pytest.approx(((4 / 6 + 2 / 4) / 2 + 0) / 2)
    assert scores.miou == pytest.approx((4 / 10 + 2 / 8) / 2)


def test_an_absent_class_has_no_iou() -> None:
    scores = score(np.array([[[3, 0, 0], [1, 2, 0], [0, 0, 0]]]), classes=["a", "b", "c"], batch_size=1)
    assert scores.iou == {"a": 3 / 4, "b": 2 / 3, "c": None}
    assert scores.miou == pytest.approx((3 / 4 + 2 / 3) / 2)
