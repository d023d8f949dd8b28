"""Class probabilities of a batch: the mean over runs, views and scales."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trash_seg.engine.precision import check_precision
from trash_seg.engine.step import Forward
from trash_seg.errors import ConfigError, UserError
from trash_seg.inference.fold import fold_batch_norms
from trash_seg.inference.load import TrainedRun
from trash_seg.inference.views import VIEWS, View
from trash_seg.models.build import one_line
from trash_seg.models.convolutions import UpsamplingConv2d
from trash_seg.models.fuse import fuse


class Member:
    """One run's network with the sizes and views that it looks at an image in."""

    def __init__(
        self, run: TrainedRun, *, device: torch.device, precision: str | None, scales: Sequence[float],
        views: Sequence[View],
    ) -> None:  # fmt: skip
        training = run.config.training
        if precision is not None:
            training = dataclasses.replace(training, precision=precision)
        try:
            check_precision(training.precision, device)
        except ConfigError as error:
            raise UserError(f"{error} (--precision fp32)") from error
        self.run, self.views = run, views
        self.precision, self.image_size = training.precision, training.image_size
        self.forward = Forward(training, device=device)
        self.model = self.forward.place_model(run.model)
        fuse(self.model, device=device, triton=training.channels_last)  # as in a captured run, to the last bit
        stride = int(self.model.encoder.output_stride)  # type: ignore[union-attr, arg-type]
        scaled = [max(round(self.image_size * scale / stride), 1) * stride for scale in scales if scale != 1]
        self.sizes = [*([self.image_size] if 1 in scales else []), *scaled]
        """Sides of the squares that go into the network, px."""

    @property
    def is_plain(self) -> bool:
        """Looks at an image once, as validation does."""
        return self.sizes == [self.image_size] and len(self.views) == 1

    def logits(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 → (N, C, S, S) float32 on the device.

        Raises:
            UserError: The network does not take this size.
        """
        try:
            return self.forward.logits(self.model, self.forward.place(images))
        except torch.OutOfMemoryError:  # a RuntimeError that says nothing of the size
            raise
        except (RuntimeError, AssertionError) as error:
            if images.shape[-1] == self.image_size:
                raise
            text = f"--scales: {self.run.name} does not take {images.shape[-1]} px ({one_line(error):.200})"
            raise UserError(text) from error

    def probabilities(self, images: Mapping[int, Tensor]) -> Tensor:
        """Mean over sizes and views.

        Args:
            images: Size → (N, 3, size, size) uint8, for each of `sizes`.

        Returns:
            (N, C, S, S) float32 in [0, 1] on the device, S the training size.
        """
        total: Tensor | None = None
        for size in self.sizes:
            for view in self.views:
                seen = view.undo(self.logits(view.apply(images[size])).softmax(1))
                seen = resize_probabilities(seen, self.image_size)
                total = seen if total is None else total + seen
        assert total is not None
        return total / (len(self.sizes) * len(self.views))


class Ensemble:
    """Several runs as one: the mean of their class probabilities. One run is an ensemble of one."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.classes = members[0].run.config.data.classes
        self.image_size = max(member.image_size for member in members)
        """S: probabilities of members with a smaller size are enlarged to it."""
        self.sizes = sorted({size for member in members for size in member.sizes})
        for member in members[1:]:
            if member.run.config.data.classes != self.classes:
                names = f"{members[0].run.name} and {member.run.name}"
                raise UserError(f"{names}: their class lists differ, so their probabilities cannot be averaged")

    @property
    def whole_batches(self) -> bool:
        """A last batch is to be filled up, as in validation."""
        return self.members[0].forward.whole_batches

    def fold(self) -> None:
        """Makes the networks faster, at the cost of other rounding than in validation."""
        for member in self.members:
            size = member.sizes[0]
            images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator())
            folded = fold_batch_norms(member.model, member.forward.place(images))
            member.model = member.model if folded is None else folded
            for module in member.model.modules():
                if isinstance(module, UpsamplingConv2d):
                    module.fix()

    @torch.inference_mode()
    def predict(self, images: Mapping[int, Tensor], *, probabilities: bool) -> tuple[Tensor, Tensor | None]:
        """Labels, and class probabilities where they are asked for.

        Args:
            images: Size → (N, 3, size, size) uint8, for each of `sizes`.
            probabilities: Whether to compute them where the labels do not need them.

        Returns:
            (N, S, S) uint8 class index, (N, C, S, S) float32; both on the host.

        Raises:
            UserError: A network does not take a size, or the batch does not fit into the device's memory.
        """
        try:
            return self._predict(images, probabilities=probabilities)
        except torch.OutOfMemoryError as error:
            num = len(images[self.sizes[0]])
            way_out = "give a smaller one" if num > 1 else "give --device cpu, or fewer --scales"
            text = f"the device has not enough memory for it ({one_line(error):.200}); {way_out}"
            raise UserError(f"--batch-size {num}: {text}") from error

    def _predict(self, images: Mapping[int, Tensor], *, probabilities: bool) -> tuple[Tensor, Tensor | None]:
        if len(self.members) == 1 and self.members[0].is_plain:
            # From the logits, as validation counts: a softmax rounds close values to equal ones.
            logits = self.members[0].logits(images[self.image_size])
            labels = logits.argmax(1)
            mean = logits.softmax(1) if probabilities else None
        else:
            seen = (resize_probabilities(m.probabilities(images), self.image_size) for m in self.members)
            mean = sum(seen, start=torch.zeros(())) / len(self.members) if len(self.members) > 1 else next(seen)
            labels = mean.argmax(1)
        return labels.to(torch.uint8).cpu(), None if mean is None else mean.cpu()


def build_ensemble(
    runs: Sequence[TrainedRun], *, device: torch.device, precision: str | None, tta: str, scales: Sequence[float]
) -> Ensemble:
    """The runs' networks on a device.

    Args:
        runs: Members.
        device: Where to.
        precision: Instead of the one each was trained in.
        tta: Key of VIEWS.
        scales: Factors of the training size.

    Raises:
        UserError: Their class lists differ.
        ConfigError: The device does not know the precision.
    """
    views = VIEWS[tta]
    return Ensemble([Member(run, device=device, precision=precision, scales=scales, views=views) for run in runs])


def resize_probabilities(probabilities: Tensor, size: int) -> Tensor:
    """(N, C, S, S) → (N, C, size, size), bilinear."""
    if probabilities.shape[-1] == size:
        return probabilities
    return functional.interpolate(probabilities, (size, size), mode="bilinear", align_corners=False)
