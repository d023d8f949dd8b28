"""All outputs of a report, in order."""

from dataclasses import dataclass, field
from pathlib import Path

from trash_seg.report import page, text
from trash_seg.report.advice import what_next
from trash_seg.report.against import compare
from trash_seg.report.board import Board
from trash_seg.report.collect import ReportError, collect
from trash_seg.report.noise import MARGIN
from trash_seg.report.page import Content
from trash_seg.report.rank import build
from trash_seg.report.reference import read_reference
from trash_seg.report.static import write_figures
from trash_seg.rundir import write_text


@dataclass(frozen=True)
class Options:
    """What the command line offers; see there."""

    output: Path | None = None
    rank_by: str = "best"
    sigma: float | None = None
    margin: float = MARGIN
    against: Path | None = None
    reference: str | None = None


@dataclass(frozen=True)
class Written:
    """What was written."""

    board: Board
    page_path: Path
    notes: list[str] = field(default_factory=list)
    """Sentences on what was left out."""


def write_report(sweep_dir: Path, *, options: Options | None = None) -> Written:
    """Reads a sweep and writes `leaderboard.csv`, `report.md`, `report.html` and the figures.

    Raises:
        trash_seg.errors.UserError: There is nothing to report on, or the folder cannot be written.
    """
    options = options or Options()
    output = options.output or sweep_dir
    board = build(collect(sweep_dir), rank_by=options.rank_by, sigma=options.sigma, margin=options.margin)
    content = Content(f"Sweep {sweep_dir.resolve().name}", board, what_next(board))
    if options.against is not None:
        other = build(collect(options.against), rank_by=options.rank_by, sigma=options.sigma, margin=options.margin)
        content.comparison = compare(board, other, sigma=options.sigma)
        content.other = options.against.resolve().name
    if options.reference is not None:
        content.published, content.published_note = read_reference(options.reference)
    html, notes = page.render(content)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "leaderboard.csv", text.leaderboard_csv(board))
        write_text(output / "report.md", text.report_markdown(board, title=content.title, steps=content.steps))
        page_path = output / "report.html"
        write_figures(board, output)
        write_text(page_path, html)
    except OSError as error:
        raise ReportError(f"{output}: cannot be written ({error.strerror}); --output chooses another folder") from error
    return Written(board, page_path, notes)
