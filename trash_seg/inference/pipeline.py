"""One prediction, from the command line's options to its outputs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from trash_seg.engine.allocator import keep_freed_memory
from trash_seg.engine.step import choose_device
from trash_seg.errors import UserError
from trash_seg.inference.ensemble import Ensemble, build_ensemble
from trash_seg.inference.inputs import Inputs, read_annotations, read_inputs, read_split
from trash_seg.inference.load import TrainedRun, load_run
from trash_seg.inference.options import NOTHING_TO_WRITE, Options
from trash_seg.inference.select import select_members
from trash_seg.inference.truth import Truth
from trash_seg.inference.write import check_apart, check_outputs, num_helpers, write_outputs


def run_prediction(options: Options, console: Console) -> int:
    """Does what the options ask. Returns the exit code: 1 if images could not be predicted.

    Raises:
        UserError: Something given cannot be used; nothing was written.
    """
    check_outputs(options)
    device = choose_device(options.device, setting="--device ")
    if device.type == "cpu":
        keep_freed_memory()
    runs = [load_run(path, allow_unfinished=options.allow_unfinished) for path in options.runs]
    if options.split is not None:
        check_unseen(runs, options.split)
    # With another number of threads, the last bits of the validation would not be the run's own.
    threads = options.num_threads or (runs[0].num_threads if options.split == "val" else None)
    if threads is not None:
        torch.set_num_threads(threads)
    ensemble = build_ensemble(runs, device=device, precision=options.precision, tta=options.tta, scales=options.scales)
    for member in ensemble.members:
        console.print(
            f"{member.run.name}: epoch {member.run.epoch}, mIoU {member.run.miou:.4f}; {device.type}, "
            f"{member.precision}, {member.image_size} px",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    if options.select:
        ensemble = select(options, ensemble, console)
        if not (options.data or options.split or options.truth):
            return 0
    inputs = find_inputs(options, runs[0])
    check_apart(options, inputs)
    labelled = find_labelled(options, inputs, runs[0])
    truth = None
    if labelled is not None:
        inputs, truth = match_truth(inputs, labelled, runs[0])
    elif not options.folders and not options.files:
        raise UserError(NOTHING_TO_WRITE)
    for note in inputs.notes:
        console.print(note, markup=False, soft_wrap=True)
    return write_outputs(options, inputs, ensemble, truth, console)


def select(options: Options, ensemble: Ensemble, console: Console) -> Ensemble:
    """The best subset of the runs, on `--truth` or on the validation set that they share.

    Raises:
        UserError: They were validated on different images.
    """
    first = ensemble.members[0].run
    if options.truth is not None:
        labelled = read_annotations(options.truth, images_dir=options.images, config=first.config, has_truth=True)
    else:
        for member in ensemble.members:
            if _identity(member.run, "val") != _identity(first, "val"):
                text = f"{first.name} and {member.run.name} were validated on different data"
                raise UserError(f"--select: {text}; give --truth FILE with images that none has seen")
        labelled = read_split(first.config, "val", data_root=options.data_root)
    labelled, truth = match_truth(labelled, labelled, first)
    batch_size = options.batch_size or first.config.training.batch_size
    chosen = select_members(
        ensemble, labelled.items, truth, batch_size=batch_size, console=console, num_threads=num_helpers()
    )
    return Ensemble([ensemble.members[index] for index in chosen])


def check_unseen(runs: Sequence[TrainedRun], split: str) -> None:
    """Refuses the first run's split where another may have been trained on its images, as where they are folds.

    Raises:
        UserError: It names the other run.
    """
    for run in runs[1:]:
        if _identity(run, split) != _identity(runs[0], split):
            text = f"these images are {runs[0].name}'s; {run.name} has other data, and may have been trained on them"
            raise UserError(f"--split {split}: {text}; give one run, or --data PATH with images that none has seen")


def _identity(run: TrainedRun, split: str) -> object:
    """What decides the samples of a split, wherever the files lie."""
    data = run.config.data
    if split == "test" and data.annotations is None:  # a file that no run is trained on, with no truth to differ in
        return data.name, data.test
    return dataclasses.replace(data, root="", encoder_weights=None)


def find_inputs(options: Options, run: TrainedRun) -> Inputs:
    """The images: `--data`, `--split`, or those of `--truth`."""
    if options.split is not None:
        return read_split(run.config, options.split, data_root=options.data_root)
    if options.data:
        return read_inputs(options.data, images_dir=options.images, config=run.config)
    assert options.truth is not None
    return read_annotations(options.truth, images_dir=options.images, config=run.config, has_truth=True)


def find_labelled(options: Options, inputs: Inputs, run: TrainedRun) -> Inputs | None:
    """The images whose truth is known: of `--truth`, or of the run's own dataset.

    Raises:
        UserError: There are none, and an output needs them.
    """
    if options.truth is not None and options.data:
        return read_annotations(options.truth, images_dir=options.images, config=run.config, has_truth=True)
    if not inputs.has_truth and (options.scores or options.confusion):
        raise UserError("--scores and --confusion need the truth: --truth FILE, or --split val")
    return inputs if inputs.has_truth else None


def match_truth(inputs: Inputs, labelled: Inputs, run: TrainedRun) -> tuple[Inputs, Truth]:
    """The truth of the images, and the images with its ids and what it says of their size and so of their orientation.

    The same image has the same name, or is the same file.

    Raises:
        UserError: None of the images has a truth.
    """
    by_name = {item.name: item.record for item in labelled.items}
    by_path = {item.path.resolve(): item.record for item in labelled.items}
    found = {item.name: by_name.get(item.name) or by_path.get(item.path.resolve()) for item in inputs.items}
    records = {name: record for name, record in found.items() if record is not None}
    if not records:
        example, other = inputs.items[0].name, labelled.items[0].name
        text = f"has none of the {len(inputs.items)} images, by their names ({example} is none of {other} …)"
        raise UserError(f"--truth {labelled.annotation_path}: {text}")
    items = [dataclasses.replace(item, record=item.record or found[item.name]) for item in inputs.items]
    notes = list(inputs.notes)
    if len(records) < len(items):
        notes.append(f"{len(items) - len(records)} of {len(items)} images have no truth")
    first = labelled.items[0]
    root = Path(str(first.path).removesuffix(first.name))
    inputs = dataclasses.replace(
        inputs, items=items, annotation_path=labelled.annotation_path, notes=notes,
        file_names={name: record.file_name for name, record in records.items()},
    )  # fmt: skip
    return inputs, Truth(records, root=root, config=run.config)
