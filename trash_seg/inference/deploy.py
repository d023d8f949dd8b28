"""One export: trace, write aside, check on real images, put in place, time."""

import torch
from rich.console import Console

from trash_seg.errors import UserError
from trash_seg.inference.ensemble import Member
from trash_seg.inference.exporting import describe, save_onnx, save_torch, trace
from trash_seg.inference.inputs import read_inputs, read_split
from trash_seg.inference.load import load_run
from trash_seg.inference.options import ExportOptions
from trash_seg.inference.verify import MIN_AGREEMENT, compare, measure, read_images, show_speed
from trash_seg.inference.views import VIEWS
from trash_seg.models.build import one_line
from trash_seg.rundir import write_atomically

RUNTIMES = {"onnx": "onnxruntime", "torch": "torch.export"}


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

    traced = trace(run)
    metadata = describe(run, traced)
    if options.format == "onnx":
        content, exported = save_onnx(traced, metadata, num_threads=threads)
    else:
        content, exported = save_torch(traced, metadata)
    member = Member(run, device=torch.device("cpu"), precision="fp32", scales=[1.0], views=VIEWS["none"])
    with torch.inference_mode():
        try:
            found = compare(member.logits, exported, images, any_size=traced.stride is not None)
        except Exception as error:  # onnxruntime's or torch's own
            raise UserError(f"{options.path}: not written, it does not run: {one_line(error):.300}") from error
        text = (
            f"labels equal on {100 * found.agreement:.3f} % of the pixels of {found.num_images} images, largest "
            f"difference of a logit {found.largest_difference:.2g}"
        )
        if not found.agreement >= MIN_AGREEMENT:
            raise UserError(f"{options.path}: not written, it does not see what the run sees: {text}")
        try:
            write_atomically(options.path, lambda file: file.write(content))
        except OSError as error:
            raise UserError(f"{options.path}: cannot be written ({error.strerror})") from error
        size_text = f"{options.path}  ({len(content) / 2**20:.1f} MiB)"
        lines = [size_text, f"in: {metadata['input']}", f"out: {metadata['output']}", text]
        if traced.reason:
            lines.append(f"height and width are fixed: {traced.reason}")
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        seconds = measure({"the run": member.logits, RUNTIMES[options.format]: exported}, images)
    show_speed(seconds, console, title=f"CPU, fp32, {size} px, {threads} thread{'s' * (threads > 1)}")
