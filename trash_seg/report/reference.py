"""Published curves to show beside one's own."""

import csv
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from trash_seg.report.collect import ReportError

BUNDLED = {
    "log210501": "Experiment log of May 2021: ImageNet weights, UNKNOWN trained as background, mean over 11 classes, "
    "pooled validation mIoU, best of 8 epochs at 256 px; times on one shared GPU, not comparable."
}
"""Name → what the numbers are."""


@dataclass(frozen=True)
class Published:
    """One published run; scores as mIoU fractions."""

    encoder: str
    decoder: str
    weights: str
    best_miou: float
    last_miou: float | None
    seconds: float | None
    curve: list[float]
    """One value an epoch, as far as they were published."""


def read_reference(given: str) -> tuple[list[Published], str]:
    """Published curves, the best first, and a sentence on what they are.

    Args:
        given: A name of BUNDLED, or a CSV file with columns encoder, decoder, weights, seconds, best_miou, last_miou
            and epoch1, epoch2, …; empty where something was not published.

    Raises:
        ReportError: There is no such file, or it has other columns or values.
    """
    name = given.removesuffix(".csv")
    bundled = name in BUNDLED and not Path(given).exists()
    path: Traversable = files("trash_seg.report") / "reference" / f"{name}.csv" if bundled else Path(given)
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        published = [_published(row) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        problem = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        way_out = (
            f"Give a CSV file with columns encoder, decoder, weights, best_miou, epoch1, …, or {', '.join(BUNDLED)}"
        )
        raise ReportError(f"--reference {given}: {problem}. {way_out}") from error
    note = BUNDLED.get(Path(name).name, "Published elsewhere; data, classes and settings may differ from this sweep's.")
    return sorted(published, key=lambda item: -item.best_miou), note


def _published(row: dict[str, str]) -> Published:
    epochs = [key for key in row if key.startswith("epoch") and key[5:].isdigit()]
    curve = [row[key] for key in sorted(epochs, key=lambda key: int(key[5:]))]
    return Published(
        encoder=row["encoder"],
        decoder=row["decoder"],
        weights=row["weights"],
        best_miou=float(row["best_miou"]),
        last_miou=_number(row.get("last_miou")),
        seconds=_number(row.get("seconds")),
        curve=[float(value) for value in curve if value],
    )


def _number(value: str | None) -> float | None:
    return float(value) if value else None
