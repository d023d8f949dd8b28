"""A function of device tensors as one CUDA graph: all its launches become one.

Capturing needs fixed shapes and addresses, and that the host reads nothing. Warming up and capturing leave weights,
BatchNorm, optimizer and random numbers as they were, so that a captured run equals an eager one.
"""

import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trash_seg.config import Config

log = logging.getLogger(__name__)

Function = Callable[..., tuple[Tensor, ...]]
WARM_UP_STEPS = 3
"""torch's advice: cuDNN and the allocator settle, and lazily made state exists."""
ZERO_STATE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam, torch.optim.SGD)
"""Optimizers that work in a graph, and whose state before the first step is all zeros."""


def find_obstacle(config: Config, optimizer: torch.optim.Optimizer) -> str | None:
    """Why a training step cannot be captured; None if it can."""
    if config.loss.name == "lovasz":
        return "loss=lovasz: its shapes depend on the data"
    if type(optimizer) not in ZERO_STATE:
        return f"optimizer.name={config.optimizer.name}: only {', '.join(kind.__name__ for kind in ZERO_STATE)}"
    for group in optimizer.param_groups:
        in_form = group.get("capturable") or group.get("fused")
        if not (in_form and isinstance(group["lr"], Tensor)):
            return "optimizer.options: the host reads the learning rate (leave out foreach, fused and capturable)"
        if config.training.precision == "fp16" and not group.get("fused"):
            return f"training.precision=fp16: the host looks whether a step of {config.optimizer.name} overflowed"
    if config.optimizer.options.get("dampening"):
        return "optimizer.options.dampening: the first step is not like the others"
    return None


class Captured:
    """Captures a function at its first call, and replays it.

    What cannot be captured runs as it is, after one line that says why; so does a call with other shapes than the first
    one's, such as the last batch of a validation.

    Args:
        function: Of tensors on the device; returns a tuple of tensors there.
        model: What the function changes: its weights and buffers are put back after the warm-up.
        optimizer: Likewise its state; None where the function does not step.
        scaler: Likewise the loss scale.
        forget: Called after the warm-up, drops what modules keep from it: a graph would only read it.
        required: Raise what capturing raises, instead.
    """

    num_generators = 0
    """How often `_renew_generator` was needed in this process."""

    def __init__(
        self, function: Function, *, model: nn.Module, optimizer: torch.optim.Optimizer | None = None,
        scaler: torch.amp.GradScaler | None = None, forget: Callable[[], object] = lambda: None, required: bool = False,
    ) -> None:  # fmt: skip
        self.function, self.model, self.optimizer, self.scaler = function, model, optimizer, scaler
        self.forget, self.required = forget, required
        self._refused = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._generator = 0
        """How often the generator had been renewed when the graph was captured."""
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's results, as tensors of their own."""
        if self._generator != Captured.num_generators:
            self._graph = None  # it draws from one that nobody seeds any more
        if self._graph is None and not self._refused:
            self._capture(inputs)
        if self._graph is None or [i.shape for i in inputs] != [i.shape for i in self._inputs]:
            return self.function(*inputs)
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value, non_blocking=True)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        try:
            # torch leaves the stream of a capture that fails as the current one; this puts it back.
            with unchanged(self.model, self.optimizer, self.scaler), torch.cuda.stream(torch.cuda.current_stream()):
                self._record(inputs)
        except RuntimeError as error:
            if self.required:
                raise
            self._refused = True
            log.warning("step: eager, because capturing fails (%s)", str(error).partition("\n")[0])
        if self._refused:
            gc.collect()  # what is left of autograd's nodes belongs to the stream of the warm-up
            torch.cuda.empty_cache()  # as does its memory, which no other stream is given

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(value.clone() for value in inputs)
        # Of its own: graphs of one stream share cuBLAS's workspace, and torch 2.14 frees it with the first of them.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS - 1):
                    self.function(*self._inputs)
                with synchronising_refused():
                    self.function(*self._inputs)
        finally:
            torch.cuda.current_stream().wait_stream(stream)  # before anything is put back
        self.forget()
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)  # gradients then live in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        try:
            with collector_paused(), torch.cuda.graph(graph, stream=stream):
                self._outputs = self.function(*self._inputs)
        except RuntimeError as error:
            _renew_generator()
            if error.__context__ is None:
                raise
            raise RuntimeError(str(error.__context__)) from None  # ending a capture that has failed raises once more
        self._graph, self._generator = graph, Captured.num_generators


def _renew_generator() -> None:
    """After a capture that fails, torch 2.11 gives no more random numbers: they wait for its end."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(torch.Generator("cuda").graphsafe_get_state())
    Captured.num_generators += 1


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the garbage collector, which may end another graph: CUDA forbids that while one is captured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def synchronising_refused() -> Iterator[None]:
    """What makes the host wait raises, while that does no harm: torch 2.11 does not recover when it ends a capture."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remark that it does not find all
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def unchanged(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, scaler: torch.amp.GradScaler | None = None
) -> Iterator[None]:
    """Puts weights, buffers, optimizer state, loss scale and random numbers back, in place.

    A graph knows their addresses.
    """

    def tensors() -> Iterator[Tensor]:
        yield from model.parameters()
        yield from model.buffers()
        for state in optimizer.state.values() if optimizer is not None else ():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    kept = {id(tensor): tensor.detach().clone() for tensor in tensors()}
    scale = scaler.state_dict() if scaler is not None else {}
    random = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random_host = torch.get_rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor in tensors():
                before = kept.get(id(tensor))
                if before is None:  # an optimizer's, made at its first step
                    tensor.zero_()
                else:
                    tensor.copy_(before)
        if optimizer is not None and scaler is not None and scaler.is_enabled():
            scaler.update(scale["scale"])  # forgets what it noted of a step that broke off
            scaler.load_state_dict(scale)
            for name in ("grad_scale", "found_inf"):  # GradScaler's, for the time of a step
                vars(optimizer).pop(name, None)
        torch.cuda.set_rng_state_all(random)
        torch.set_rng_state(random_host)
