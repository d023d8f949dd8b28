"""`report.html`."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from trash_seg.report import text
from trash_seg.report.advice import Step
from trash_seg.report.board import Board


def render(board: Board, *, title: str, steps: Sequence[Step]) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("trash_seg.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    records = [text.record(row, board.classes) for row in board.rows]
    template = environment.get_template("report.html.j2")
    return template.render(title=title, board=board, records=records, steps=steps, verdict=text.verdict(board))
