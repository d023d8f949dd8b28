"""Everything a run needs to go on, in one file that knows whether it is whole.

File: 64 hex digits (SHA-256 of the rest), a newline, a `torch.save` archive of tensors and plain values.
"""

import hashlib
import io
import logging
from contextlib import suppress
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from trash_seg.engine.step import Step
from trash_seg.rundir import RunDir, replacing

DIGEST_LENGTH = 64
log = logging.getLogger(__name__)


def collect(step: Step, progress: dict[str, Any]) -> dict[str, Any]:
    """All state, as it is: its tensors change with the next step.

    Args:
        step: Weights, optimizer, schedule, loss scale, moving average.
        progress: Position, history and best so far: plain values and tensors.
    """
    return {
        "model": step.model.state_dict(),
        "ema": None if step.ema is None else step.ema.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "num_steps": step.num_done,
        "scaler": step.scaler.state_dict(),
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state(step.device) if step.device.type == "cuda" else None,
        "progress": progress,
    }


def on_host(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that no step changes; what shares memory does so in the copy too.

    A device's tensors come into locked memory, where there is some, which takes a fraction of the time; torch keeps it
    for the next copy. What lies in such memory already is a copy that nobody changes.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies:
            copies[key] = tensor if tensor.is_pinned() else _beside(tensor).copy_(tensor.detach(), non_blocking=True)
        return copies[key]

    copied = tree_map_only(Tensor, copy, state)
    if any(original[0].type == "cuda" for original in copies):
        torch.cuda.current_stream().synchronize()
    return cast(dict[str, Any], copied)


def _beside(tensor: Tensor) -> Tensor:
    """Memory on the host for a tensor."""
    if tensor.is_cuda:
        with suppress(RuntimeError):  # a system may limit what can be locked
            return torch.empty_like(tensor, device="cpu", pin_memory=True)
    return torch.empty_like(tensor, device="cpu")


def write(run_dir: RunDir, state: dict[str, Any]) -> None:
    """Writes the state as `last.ckpt`; what stood there becomes `previous.ckpt`.

    Raises:
        OSError: It could not be written; the one before is intact.
    """
    with replacing(run_dir.last_path, previous=run_dir.previous_path) as file:
        file.write(b"0" * DIGEST_LENGTH + b"\n")
        hashing = _HashingFile(file)
        try:
            torch.save(state, cast(IO[bytes], hashing))
        except RuntimeError as error:  # torch ends the archive even so, and complains of its length
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.seek(0)
        file.write(hashing.hash.hexdigest().encode())


class _HashingFile:
    """Hashes what it hands on: the archive never lies in memory as a whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def load(run_dir: RunDir, *, step: Step) -> dict[str, Any] | None:
    """Puts the newest whole checkpoint into `step`. A damaged file is reported, and the one before it used.

    The damaged one is deleted: the next save would keep it in the place of the whole one.

    Returns:
        The `progress` that was saved, or None where there is no whole checkpoint.
    """
    damaged = False
    for path in (run_dir.last_path, run_dir.previous_path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        digest, archive = content[:DIGEST_LENGTH], content[DIGEST_LENGTH + 1 :]
        if (
            hashlib.sha256(archive).hexdigest().encode() != digest
            or content[DIGEST_LENGTH : DIGEST_LENGTH + 1] != b"\n"
        ):
            log.warning("%s is damaged: its checksum differs", path)
            path.unlink()
            damaged = True
            continue
        state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
        _restore(step, state)
        log.info("checkpoint: %s", path)
        return state["progress"]  # type: ignore[no-any-return]
    if damaged:
        log.warning("no whole checkpoint: starting anew")
    return None


def _restore(step: Step, state: dict[str, Any]) -> None:
    step.model.load_state_dict(state["model"])
    if step.ema is not None:
        step.ema.load_state_dict(state["ema"])
    step.optimizer.load_state_dict(_in_own_form(state["optimizer"], step.optimizer))
    step.num_done = state["num_steps"]
    step.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"].cpu())
    if state["rng_cuda"] is not None:
        torch.cuda.set_rng_state(state["rng_cuda"].cpu(), step.device)


def _in_own_form(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved state for an optimizer that may be fused or capturable where the saved one was not: on another device."""
    groups = [
        {**saved, **{key: own[key] for key in ("lr", "capturable", "fused", "foreach") if key in own}}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}
