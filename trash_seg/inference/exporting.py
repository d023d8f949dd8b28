"""From a run to one file that needs neither this package nor SMP: an ONNX model, or a torch.export program."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from trash_seg import __version__
from trash_seg.engine.step import Normalize
from trash_seg.errors import UserError
from trash_seg.inference.load import TrainedRun
from trash_seg.models.build import one_line
from trash_seg.palette import palette

MAX_ONNX_BYTES = 2**31 - 1
"""Protobuf holds no more in one file."""
LARGE_SIDE = 640
"""px. What is to be right at any size is checked there: 40 cells or more where a decoder dilates, by up to 36."""
BATCH = {0: Dim("batch")}
Run = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) uint8 RGB → logits (N, C, H, W) float32."""


class Deployed(nn.Module):
    """A network with normalisation inside: images (N, 3, H, W) uint8 RGB → logits (N, C, H, W) float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.normalize, self.model = Normalize(), model

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - the class says it
        logits: Tensor = self.model(self.normalize(images))
        return logits


@dataclass(frozen=True)
class Traced:
    """A network as a program."""

    program: ExportedProgram
    stride: int | None
    """Height and width may be any multiple of it; None: they are the training size."""
    reason: str = ""
    """Why they are, in the tracer's words."""


def describe(run: TrainedRun, traced: Traced) -> dict[str, str]:
    """What a file says of itself; lists as JSON."""
    classes, size = run.config.data.classes, run.config.training.image_size
    sizes = f"{size} px" if traced.stride is None else f"multiples of {traced.stride} px, trained at {size}"
    return {
        "run": run.name,
        "epoch": str(run.epoch),
        "miou": repr(run.miou),
        "trash_seg": __version__,
        "classes": json.dumps(classes, ensure_ascii=False),
        "colors": json.dumps(palette(len(classes))),
        "image_size": str(size),
        "input": f"images (N, 3, H, W) uint8 RGB, resized bilinearly; height and width {sizes}",
        "output": "logits (N, C, H, W) float32; normalisation is inside; the label is the argmax over C",
    }


def large_side(stride: int) -> int:
    """The multiple of the stride from LARGE_SIDE on."""
    return -(-LARGE_SIDE // stride) * stride


def trace(run: TrainedRun) -> Traced:
    """Captures the network, with height and width dynamic where it allows.

    Raises:
        UserError: It cannot be captured.
    """
    size, stride = run.config.training.image_size, int(run.model.encoder.output_stride)  # type: ignore[union-attr, arg-type]
    sides = {axis: stride * Dim(f"{name}_{stride}", min=1, max=2**16 // stride) for axis, name in ((2, "h"), (3, "w"))}
    module = Deployed(run.model).eval()
    try:
        program = _export(module, size, {**BATCH, **sides})
        other = torch.randint(0, 256, (1, 3, large_side(stride), size + stride), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(_runner(program)(other), module(other), rtol=1e-3, atol=1e-3)
        return Traced(program, stride)
    except Exception as error:  # a guard of this size, a constant in the network: whatever the tracer raises
        reason = f"{one_line(error):.200}"
    return trace_fixed(run, reason)


def trace_fixed(run: TrainedRun, reason: str) -> Traced:
    """Captures the network at the training size, for a reason.

    Raises:
        UserError: It cannot be captured.
    """
    with refusing("torch.export refuses it"):
        return Traced(_export(Deployed(run.model).eval(), run.config.training.image_size, BATCH), None, reason)


def save_torch(traced: Traced, metadata: Mapping[str, str]) -> tuple[bytes, Run]:
    """The content of a `.pt2` file, and the network as loaded from it. `metadata.json` is in it as an extra file.

    Raises:
        UserError: torch cannot write the program, or read it again.
    """
    file = io.BytesIO()
    with refusing("torch.export cannot write it"), _quiet():
        torch.export.save(traced.program, file, extra_files={"metadata.json": json.dumps(metadata)})
        loaded = torch.export.load(io.BytesIO(file.getvalue()))
    return file.getvalue(), _runner(loaded)


def save_onnx(traced: Traced, metadata: Mapping[str, str], *, num_threads: int) -> tuple[bytes, Run]:
    """The content of an `.onnx` file, and the network as onnxruntime runs it on the CPU.

    Raises:
        UserError: An operation has no counterpart in ONNX or onnxruntime, or the file would be too large.
    """
    import onnxruntime

    with refusing("torch.onnx cannot convert it"), _quiet():
        converted = torch.onnx.export(
            traced.program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
        assert converted is not None
        converted.model.metadata_props.update(metadata)
        _name_axes(converted.model.graph, dynamic=traced.stride is not None)
        content = converted.model_proto.SerializeToString()
    if len(content) > MAX_ONNX_BYTES:
        raise UserError(f"one ONNX file would hold {len(content) / 2**30:.1f} GiB, 2 are possible")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    with refusing("onnxruntime refuses it"):
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return content, lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Makes one line of whatever the exporters, onnxscript and onnxruntime raise.

    Raises:
        UserError: What cannot be done, and their reason.
    """
    try:
        yield
    except Exception as error:
        raise UserError(f"{what}: {one_line(error):.300}") from error


def _export(module: nn.Module, size: int, dynamic: Mapping[int, object]) -> ExportedProgram:
    example = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)  # 2: a batch of 1 would be made a constant
    with _quiet(), torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes={"images": dynamic})


def _name_axes(graph: Any, *, dynamic: bool) -> None:
    """Replaces the tracer's symbols by names that a reader of the file understands."""
    for value in (graph.inputs[0], graph.outputs[0]):
        _, channels, *sides = value.shape
        value.shape = type(value.shape)(["batch", channels, *(["height", "width"] if dynamic else sides)])


def _runner(program: ExportedProgram) -> Run:
    module = program.module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(images)
        return logits

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' warnings and log lines speak of their own code."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
