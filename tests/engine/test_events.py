from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trash_seg.engine.events import EventWriter


def test_an_epoch_written_again_replaces_what_stood_there(tmp_path: Path) -> None:
    for epoch, miou in ((1, 0.1), (2, 0.9), (2, 0.2), (3, 0.3)):  # epoch 2 is written again, as after a resume
        EventWriter(tmp_path).write({"epoch": epoch, "miou": miou, "iou_Paper": None})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["miou"]
    assert [event.step for event in events.Scalars("miou")] == [1, 2, 3]
