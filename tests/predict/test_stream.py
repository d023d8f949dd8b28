"""Reading ahead, batching and putting together, without the command line."""

import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from tests.conftest import command_environment
from tests.predict.conftest import make_run, random_image
from trash_seg.inference.ensemble import build_ensemble
from trash_seg.inference.inputs import Item
from trash_seg.inference.load import load_run
from trash_seg.inference.stream import Failure, Prediction, Reader, stream
from trash_seg.inference.write import Tally, consume, num_helpers

CPU = torch.device("cpu")


def test_no_more_than_two_batches_of_images_are_read_ahead(toy_run: Path, tmp_path: Path) -> None:
    random_image(tmp_path / "a.png", 40, 30)
    (tmp_path / "b.png").write_bytes(b"no image")
    ensemble = build_ensemble([load_run(toy_run)], device=CPU, precision=None, tta="none", scales=[1.0])
    taken, lock = [0], threading.Lock()

    def items() -> Iterator[Item]:
        for index in range(120):
            with lock:
                taken[0] += 1
            yield Item(f"{index}", tmp_path / ("b.png" if index % 50 == 7 else "a.png"))

    reader = Reader(ensemble.sizes, None, 0.0, keep_image=True)
    batch_size, predicted, failed = 4, [], []
    for done, result in enumerate(stream(items(), ensemble, reader=reader, batch_size=batch_size, probabilities=False)):
        # Two batches read ahead, one in the queue, two running, one just predicted.
        assert taken[0] <= done + 6 * batch_size + 1
        if isinstance(result, Failure):
            failed.append(int(result.item.name))
        else:
            assert isinstance(result, Prediction) and result.image is not None
            predicted.append(int(result.item.name))
    assert failed == list(range(7, 120, 50))
    assert predicted == [index for index in range(120) if index % 50 != 7]


def test_a_batch_that_is_filled_up_predicts_its_own_images_alone(toy_run: Path, tmp_path: Path) -> None:
    items = [Item(f"{index}", tmp_path / f"{index}.png") for index in range(6)]
    for item in items:
        random_image(item.path, 40, 30)
    ensemble = build_ensemble([load_run(toy_run)], device=CPU, precision=None, tta="none", scales=[1.0])
    reader = Reader(ensemble.sizes, None, 0.0, keep_image=False)
    sizes: list[int] = []
    ensemble.members[0].model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    results = []
    for ensemble.members[0].forward.whole_batches in (False, True):  # the second as on CUDA
        results.append(list(stream(items, ensemble, reader=reader, batch_size=4, probabilities=False)))
    assert sizes == [4, 2, 4, 4]
    for plain, filled in zip(*results, strict=True):
        assert isinstance(plain, Prediction) and isinstance(filled, Prediction)
        assert plain.item == filled.item and np.mean(plain.labels != filled.labels) < 0.01


def test_predictions_are_let_go_as_they_are_written() -> None:
    labels, seen, written = np.zeros((1, 1), np.uint8), [], []

    def predictions() -> Iterator[Prediction]:
        for index in range(40):
            prediction = Prediction(Item(str(index), Path()), None, 1, 1, labels, None)
            seen.append(weakref.ref(prediction))
            yield prediction
            assert sum(alive() is not None for alive in seen) <= num_helpers() + 3

    class Writer:
        needs_probabilities = False

        def prepare(self, prediction: Prediction) -> int:
            return int(prediction.item.name)

        def write(self, prediction: Prediction, prepared: int) -> None:
            written.append(prepared)

    consume(predictions(), [Writer()], num_items=40, tally=Tally(), console=Console(quiet=True))
    assert written == list(range(40))


def test_leaving_early_ends_the_reading_threads(toy_run: Path, tmp_path: Path) -> None:
    random_image(tmp_path / "a.png", 40, 30)
    ensemble = build_ensemble([load_run(toy_run)], device=CPU, precision=None, tta="none", scales=[1.0])
    before = threading.active_count()
    items = (Item(str(index), tmp_path / "a.png") for index in range(100))
    reader = Reader(ensemble.sizes, None, 0.0, keep_image=False)
    predictions = stream(items, ensemble, reader=reader, batch_size=4, probabilities=False)
    assert isinstance(next(predictions), Prediction)
    predictions.close()
    assert threading.active_count() == before


def test_a_run_with_pretrained_weights_loads_without_a_network_or_pickle(tmp_path: Path) -> None:
    """Sockets and unpickling are forbidden in the process; the run says that its encoder came from imagenet."""
    run = make_run(tmp_path / "runs")
    status = (run / "status.json").read_text()
    assert '"weights": null' in status
    (run / "status.json").write_text(status.replace('"weights": null', '"weights": "imagenet"', 1))
    code = (
        "import sys\n"
        "from trash_seg.inference.load import load_run\n"
        "def forbid(event, _):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'pickle.find_class'): raise PermissionError(event)\n"
        "sys.addaudithook(forbid)\n"
        "from pathlib import Path\n"
        "run = load_run(Path(sys.argv[1]))\n"
        "print(run.config.encoder.weights, run.name)"
    )
    environment = {key: value for key, value in command_environment().items() if key != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", code, str(run)]
    completed = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert completed.stdout.split() == ["imagenet", run.name], completed.stderr


def test_help_imports_no_torch() -> None:
    for module in ("predict", "export"):
        code = f"import sys, trash_seg.{module} as m; m.parser().format_help(); print('torch' in sys.modules)"
        command = [sys.executable, "-c", code]
        completed = subprocess.run(command, env=command_environment(), text=True, capture_output=True)
        assert completed.stdout.strip() == "False", completed.stderr
