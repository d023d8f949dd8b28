"""One export: trace, write aside, check on real images, put in place, time."""

import copy
import dataclasses
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from trash_seg.errors import UserError
from trash_seg.inference.ensemble import Member
from trash_seg.inference.exporting import Run, Traced, describe, refusing, save_onnx, save_torch, trace, trace_fixed
from trash_seg.inference.inputs import read_inputs, read_split
from trash_seg.inference.load import TrainedRun, load_run
from trash_seg.inference.options import ExportOptions
from trash_seg.inference.verify import MIN_AGREEMENT, compare, measure, read_images, show_speed
from trash_seg.inference.views import VIEWS
from trash_seg.rundir import write_atomically

RUNTIMES = {"onnx": "onnxruntime", "torch": "torch.export"}


@dataclass(frozen=True)
class Product:
    """A file that was seen to be the run."""

    content: bytes
    run: Run
    metadata: dict[str, str]
    agreement: str
    """What was seen, in words."""
    reason: str
    """Why height and width are fixed; empty: they are not."""


def export_run(options: ExportOptions, console: Console) -> None:
    """Writes the file, unless it does not see what the run sees.

    Raises:
        UserError: The run, the pair or the images cannot be used, or the labels differ; nothing was written.
    """
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    run = load_run(options.run, allow_unfinished=options.allow_unfinished)
    if options.data:
        inputs = read_inputs(options.data, images_dir=None, config=run.config)
    else:
        inputs = read_split(run.config, "val", data_root=options.data_root)
    size, threads = run.config.training.image_size, torch.get_num_threads()
    images = read_images(inputs.items, size=size, num_images=options.num_images)
    # A member's network is fused, with shortcuts for its size that a tracer would keep at any; `run` has the plain one.
    fused = dataclasses.replace(run, model=copy.deepcopy(run.model))
    member = Member(fused, device=torch.device("cpu"), precision="fp32", scales=[1.0], views=VIEWS["none"])

    try:
        product = _make(run, options.format, member.logits, images)
    except UserError as error:
        pair = f"{run.config.encoder.name} × {run.config.decoder.name}"
        raise UserError(f"{pair} cannot be exported: {error}") from error
    try:
        write_atomically(options.path, lambda file: file.write(product.content))
    except OSError as error:
        raise UserError(f"{options.path}: cannot be written ({error.strerror})") from error
    lines = [
        f"{options.path}  ({len(product.content) / 2**20:.1f} MiB)",
        f"in: {product.metadata['input']}",
        f"out: {product.metadata['output']}",
        product.agreement,
    ]
    if product.reason:
        lines.append(f"height and width are fixed: {product.reason}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    with torch.inference_mode():
        seconds = measure({"the run": member.logits, RUNTIMES[options.format]: product.run}, images)
    show_speed(seconds, console, title=f"CPU, fp32, {size} px, {threads} thread{'s' * (threads > 1)}")


def _make(run: TrainedRun, target: str, reference: Run, images: Tensor) -> Product:
    """With height and width dynamic, where the pair allows it in each of the steps."""
    traced = trace(run)
    try:
        return _check(run, traced, target, reference, images)
    except UserError as error:
        if traced.stride is None:
            raise
        reason = f"with others, {error}"
    return _check(run, trace_fixed(run, reason), target, reference, images)


def _check(run: TrainedRun, traced: Traced, target: str, reference: Run, images: Tensor) -> Product:
    metadata = describe(run, traced)
    if target == "onnx":
        content, exported = save_onnx(traced, metadata, num_threads=torch.get_num_threads())
    else:
        content, exported = save_torch(traced, metadata)
    with torch.inference_mode(), refusing(f"{RUNTIMES[target]} cannot run it"):
        found = compare(reference, exported, images, stride=traced.stride)
    agreement = (
        f"labels equal on {100 * found.agreement:.3f} % of the pixels of {found.num_images} images, largest "
        f"difference of a logit {found.largest_difference:.2g}"
    )
    if not found.agreement >= MIN_AGREEMENT:
        raise UserError(f"{RUNTIMES[target]} does not see what the run sees: {agreement}")
    return Product(content, exported, metadata, agreement, traced.reason)
