"""Which configurations are truly better, which are tied, and what it would cost to know more.

collect (run directories) → rank (stats → board) → text, figures, images, advice → page. Neither torch nor Hydra.
"""

from pathlib import Path

from trash_seg.report.write import write_report as _write

__all__ = ["write_report"]


def write_report(sweep_dir: Path) -> Path:
    """Writes the report into a sweep's folder with the default settings.

    Returns:
        The path of `report.html`.

    Raises:
        trash_seg.errors.UserError: There is nothing to report on, or the folder cannot be written.
    """
    return _write(sweep_dir).page_path
