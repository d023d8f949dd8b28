"""One prediction, from the command line's options to its outputs."""

import dataclasses
from pathlib import Path

import torch
from rich.console import Console

from trash_seg.config import DataConfig
from trash_seg.engine.allocator import keep_freed_memory
from trash_seg.engine.step import choose_device
from trash_seg.errors import UserError
from trash_seg.inference.ensemble import Ensemble, build_ensemble
from trash_seg.inference.inputs import Inputs, read_annotations, read_inputs, read_split
from trash_seg.inference.load import TrainedRun, load_run
from trash_seg.inference.options import Options
from trash_seg.inference.select import select_members
from trash_seg.inference.truth import Truth
from trash_seg.inference.write import check_outputs, num_helpers, write_outputs


def run_prediction(options: Options, console: Console) -> int:
    """Does what the options ask. Returns the exit code: 1 if images could not be predicted.

    Raises:
        UserError: Something given cannot be used; nothing was written.
    """
    check_outputs(options)
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    runs = [load_run(path, allow_unfinished=options.allow_unfinished) for path in options.runs]
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
    truth = find_truth(options, inputs, runs[0])
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
            if _identity(member.run.config.data) != _identity(first.config.data):
                text = f"{first.name} and {member.run.name} were validated on different data"
                raise UserError(f"--select: {text}; give --truth FILE with images that none has seen")
        labelled = read_split(first.config, "val", data_root=options.data_root)
    truth = find_truth(options, labelled, first)
    assert truth is not None
    batch_size = options.batch_size or first.config.training.batch_size
    chosen = select_members(
        ensemble, labelled.items, truth, batch_size=batch_size, console=console, num_threads=num_helpers()
    )
    return Ensemble([ensemble.members[index] for index in chosen])


def _identity(data: DataConfig) -> DataConfig:
    """What decides the samples, wherever the files lie."""
    return dataclasses.replace(data, root="", encoder_weights=None)


def find_inputs(options: Options, run: TrainedRun) -> Inputs:
    """The images: `--data`, `--split`, or those of `--truth`."""
    if options.split is not None:
        return read_split(run.config, options.split, data_root=options.data_root)
    if options.data:
        return read_inputs(options.data, images_dir=options.images, config=run.config)
    assert options.truth is not None
    return read_annotations(options.truth, images_dir=options.images, config=run.config, has_truth=True)


def find_truth(options: Options, inputs: Inputs, run: TrainedRun) -> Truth | None:
    """The truth, if there is one.

    Raises:
        UserError: It has none of the images.
    """
    if options.truth is not None and not inputs.has_truth:
        labelled = read_annotations(options.truth, images_dir=options.images, config=run.config, has_truth=True)
    elif inputs.has_truth:
        labelled = inputs
    elif options.scores or options.confusion:
        raise UserError("--scores and --confusion need the truth: --truth FILE, or --split val")
    else:
        return None
    records = {item.name: item.record for item in labelled.items if item.record is not None}
    known = sum(item.name in records for item in inputs.items)
    if known == 0:
        raise UserError(f"--truth {options.truth}: has none of the {len(inputs.items)} images, by their names")
    if known < len(inputs.items):
        inputs.notes.append(f"{len(inputs.items) - known} of {len(inputs.items)} images have no truth")
    first = labelled.items[0]
    root = Path(str(first.path).removesuffix(first.name))
    return Truth(records, root=root, config=run.config)
