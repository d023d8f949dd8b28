"""`python -m trash_seg.report outputs/SWEEP`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from trash_seg.errors import UserError
from trash_seg.report.board import RANK_BY
from trash_seg.report.noise import ASSUMED_SIGMA, MARGIN
from trash_seg.report.text import print_console
from trash_seg.report.write import Options, write_report


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a fraction in (0, 1)")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a fraction in [0, 1)")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m trash_seg.report", description=__doc__)
    arguments.description = "Says which configurations of a sweep are truly better and which are tied."
    arguments.add_argument("sweep", type=Path, help="folder of the sweep, outputs/<sweep.name>")
    arguments.add_argument("--output", type=Path, metavar="DIR", help="where to write; default: the sweep's folder")
    arguments.add_argument("--rank-by", choices=RANK_BY, default="best", help="epoch whose mIoU ranks (%(default)s)")
    sigma_help = f"assume this noise between seeds; default: measured, or {ASSUMED_SIGMA} without replicates"
    arguments.add_argument("--sigma", type=_positive, metavar="MIOU", help=sigma_help)
    margin_help = "a smaller difference counts as none (%(default)s)"
    arguments.add_argument("--margin", type=_fraction, metavar="MIOU", default=MARGIN, help=margin_help)
    arguments.add_argument("--against", type=Path, metavar="SWEEP", help="another sweep to compare row by row")
    reference_help = "published curves to show beside; log210501 is the experiment log of May 2021"
    arguments.add_argument("--reference", metavar="FILE.csv", help=reference_help)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and says what is in it; 2 if there is nothing to report on."""
    given = vars(parser().parse_args(argv))
    sweep = given.pop("sweep")
    try:
        written = write_report(sweep, options=Options(**given))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(highlight=False)
    print_console(written.board, console)
    for note in written.notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"\nReport: {written.page_path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
