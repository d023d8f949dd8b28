"""Runs the stream of predictions into the outputs that were asked for."""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trash_seg.data.cache import num_cores
from trash_seg.errors import UserError
from trash_seg.inference.ensemble import Ensemble
from trash_seg.inference.inputs import Inputs, read_coco_ids
from trash_seg.inference.options import Options
from trash_seg.inference.outputs import (
    CocoResults,
    MaskFolder,
    Output,
    OverlayFolder,
    ProbabilityFolder,
    Submission,
)
from trash_seg.inference.stream import Failure, Prediction, Reader, stream
from trash_seg.inference.truth import Truth, show_scores
from trash_seg.rundir import replacing

CPU_BATCH_SIZE = 4
"""A stream: fits the processor's caches better than more, and takes fewer calls than less."""


class IncompleteError(Exception):
    """Images failed, so the file that must hold all of them is not put in place."""


@dataclass
class Tally:
    """What has happened so far."""

    num_predicted: int = 0
    failures: list[Failure] = field(default_factory=list)


def check_outputs(options: Options) -> None:
    """Refuses to write over what is there.

    Raises:
        UserError: It names the output.
    """
    for path in options.folders:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file, a folder is needed")
        if path.is_dir() and any(path.iterdir()) and not options.overwrite:
            raise UserError(f"{path}: is not empty; --overwrite replaces files of the same name")
    for path in options.files:
        if path.is_dir():
            raise UserError(f"{path}: is a folder, the name of a file is needed")
        if path.exists() and not options.overwrite:
            raise UserError(f"{path}: is there already; --overwrite replaces it")
        if not path.parent.is_dir():
            raise UserError(f"{path}: its folder {path.parent} is not there")


def check_apart(options: Options, inputs: Inputs) -> None:
    """Refuses to write among the images.

    Raises:
        UserError: It names the folder.
    """
    folders = {folder: folder.resolve() for folder in options.folders}
    paths = (item.path.resolve() for item in inputs.items)
    for path, (folder, resolved) in itertools.product(paths, folders.items()):
        if path.is_relative_to(resolved):
            raise UserError(f"{folder}: holds images that are to be predicted; give another folder")


def write_outputs(options: Options, inputs: Inputs, ensemble: Ensemble, truth: Truth | None, console: Console) -> int:
    """Predicts everything and writes everything. Returns the exit code: 1 if images could not be predicted.

    Raises:
        UserError: An output cannot be written.
    """
    started, tally = time.perf_counter(), Tally()
    batch_size, num_streams = ensemble.members[0].run.config.training.batch_size, 1
    # With the truth, batches run one after the other on all threads, as in validation, to the same last bit.
    if ensemble.members[0].forward.device.type == "cpu" and truth is None:
        batch_size, num_streams = CPU_BATCH_SIZE, min(4, torch.get_num_threads())
        ensemble.fold()
    batch_size = options.batch_size or batch_size
    reader = Reader(ensemble.sizes, options.window, options.overlap, keep_image=options.overlays is not None)
    try:
        with ExitStack() as stack:
            outputs = open_outputs(options, inputs, ensemble, stack, console)
            outputs += [truth] if truth is not None else []
            predictions = stream(
                inputs.items, ensemble, reader=reader, batch_size=batch_size,
                probabilities=any(output.needs_probabilities for output in outputs), num_threads=num_helpers(),
                num_streams=num_streams,
            )  # fmt: skip
            consume(predictions, outputs, num_items=len(inputs.items), tally=tally, console=console)
            if tally.failures:
                raise IncompleteError
    except OSError as error:
        raise UserError(f"{error.filename or 'an output'}: cannot be written ({error.strerror or error})") from error
    seconds = time.perf_counter() - started
    console.print(f"{tally.num_predicted} images in {seconds:.1f} s ({tally.num_predicted / seconds:.1f} images/s)")
    if truth is not None and truth.counts:
        scores = truth.score(batch_size=batch_size)
        show_scores(scores, sum(truth.counts), console)  # type: ignore[arg-type]
        if options.scores is not None:
            truth.save_scores(options.scores, scores)
        if options.confusion is not None:
            truth.save_confusion(options.confusion)
    if tally.failures:
        console.print(f"{len(tally.failures)} of {len(inputs.items)} images could not be predicted, named above")
        if options.submission is not None:
            text = "; the file there is of an earlier prediction" if options.submission.exists() else ""
            text = f"{options.submission}: not written, it would lack them{text}"
            console.print(text, markup=False, soft_wrap=True)
    return 1 if tally.failures else 0


def open_outputs(
    options: Options, inputs: Inputs, ensemble: Ensemble, stack: ExitStack, console: Console
) -> list[Output]:
    """The outputs that are asked for. Files take their names when the stack is left, the submission unless it fails."""
    classes = ensemble.classes
    outputs: list[Output] = []
    for folder in options.folders:
        folder.mkdir(parents=True, exist_ok=True)
    if options.masks is not None:
        outputs.append(MaskFolder(options.masks, num_classes=len(classes)))
    if options.overlays is not None:
        outputs.append(OverlayFolder(options.overlays, classes=classes))
    if options.probabilities is not None:
        outputs.append(ProbabilityFolder(options.probabilities, classes=classes, dtype=options.probability_type))
    if options.coco is not None:
        ids = read_coco_ids(inputs, ensemble.members[0].run.config)
        if ids.note:
            console.print(ids.note, markup=False, highlight=False, soft_wrap=True)
        results = CocoResults(stack.enter_context(replacing(options.coco)), ids=ids)
        stack.callback(results.close)
        outputs.append(results)
    stack.enter_context(suppress(IncompleteError))  # ends here: what was opened before is put in place all the same
    if options.submission is not None:
        file = stack.enter_context(replacing(options.submission))
        outputs.append(Submission(file, num_classes=len(classes)))
    return outputs


def consume(
    predictions: Iterable[Prediction | Failure], outputs: Sequence[Output], *, num_items: int, tally: Tally,
    console: Console,
) -> None:  # fmt: skip
    """Hands each prediction to each output: the work in threads, the writing in order."""
    waiting: deque[tuple[Prediction, Future[list[Any]]]] = deque()

    def prepare(prediction: Prediction) -> list[Any]:
        return [output.prepare(prediction) for output in outputs]

    def write_first() -> None:
        prediction, future = waiting.popleft()
        for output, prepared in zip(outputs, future.result(), strict=True):
            output.write(prediction, prepared)

    with ThreadPoolExecutor(num_helpers()) as pool, _progress(num_items, console) as advance:
        try:
            for prediction in predictions:
                advance()
                if isinstance(prediction, Failure):
                    tally.failures.append(prediction)
                    console.print(prediction.reason, markup=False, highlight=False, soft_wrap=True)
                    continue
                tally.num_predicted += 1
                waiting.append((prediction, pool.submit(prepare, prediction)))
                while waiting and (len(waiting) > num_helpers() or waiting[0][1].done()):
                    write_first()
            while waiting:
                write_first()
        finally:
            pool.shutdown(cancel_futures=True)


def num_helpers() -> int:
    """Threads that read, and as many that write, beside the network."""
    return min(4, num_cores())


@contextmanager
def _progress(total: int, console: Console) -> Iterator[Any]:
    columns = (
        BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total, rate="")
        started = time.perf_counter()

        def advance() -> None:
            bar.advance(task)
            rate = bar.tasks[0].completed / (time.perf_counter() - started)
            bar.update(task, rate=f"{rate:.1f} images/s")

        yield advance
