"""`python -m trash_seg.export RUN_DIR --format onnx`: a run as one file to deploy."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from trash_seg.errors import UserError
from trash_seg.heavy import heavy_imports
from trash_seg.inference.options import EXPORT_SUFFIXES, ExportOptions, positive_count

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m trash_seg.export",
        description="Writes a run as an ONNX model or a torch.export program, checks it on real images, and times it.",
    )
    cli.add_argument("run", type=Path, metavar="RUN_DIR")
    cli.add_argument("--format", choices=tuple(EXPORT_SUFFIXES), required=True)
    cli.add_argument("--output", type=Path, metavar="FILE", help="default: the run's name, in the current folder")
    text = "images to check with: a COCO file, or folders and files (default: the run's validation set)"
    cli.add_argument("--data", type=Path, nargs="+", default=[], metavar="PATH", help=text)
    text = "where the run's dataset lies now, if it has moved"
    cli.add_argument("--data-root", type=Path, metavar="DIR", help=text)
    cli.add_argument("--num-images", type=positive_count, default=16, metavar="N", help="to check (%(default)s)")
    cli.add_argument("--num-threads", type=positive_count, metavar="N", help="CPU threads")
    cli.add_argument("--allow-unfinished", action="store_true", help="take the best epoch so far of a run not done")
    cli.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 with one line that says why nothing was written."""
    options = ExportOptions(**vars(parser().parse_args(argv)))
    try:
        check(options)
        from rich import get_console

        with heavy_imports():
            from trash_seg.inference.deploy import export_run

        export_run(options, get_console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def check(options: ExportOptions) -> None:
    """Refuses what would fail after minutes.

    Raises:
        UserError: The output exists, or a package is missing.
    """
    if options.path.exists() and not options.overwrite:
        raise UserError(f"{options.path}: is there already; --overwrite replaces it")
    if not options.path.parent.is_dir():
        raise UserError(f"{options.path}: its folder {options.path.parent} is not there")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if options.format == "onnx" and missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'trash_seg[export]'")


if __name__ == "__main__":
    sys.exit(main())
