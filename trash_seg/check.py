"""`python -m trash_seg.check data=… data.root=…`: the dataset doctor."""

import argparse
import sys
from pathlib import Path

from rich import get_console

from trash_seg.compose import compose_config, report_errors
from trash_seg.errors import UserError


def main() -> int:
    """Returns 0 without errors, 1 with errors in the dataset, 2 for a wrong command."""
    parser = argparse.ArgumentParser(
        prog="python -m trash_seg.check",
        description="Finds what is wrong with a dataset before it is trained on. The dataset is not changed.",
        epilog="Example: python -m trash_seg.check data=trash data.root=/data/trash",
    )
    parser.add_argument("overrides", nargs="*", help="as for training: data=…, data.root=…")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="for check.json and check.html")
    parser.add_argument("--annotations-only", action="store_true", help="open no image")
    arguments = parser.parse_intermixed_args()
    return report_errors(
        lambda: check(arguments.overrides, out=arguments.out, read_images=not arguments.annotations_only)
    )


def check(overrides: list[str], *, out: Path, read_images: bool) -> int:
    """Examines, reports, and returns the exit code.

    Args:
        overrides: As on the command line.
        out: Folder for check.json and check.html; made if it is not there.
        read_images: Open the images too.

    Raises:
        UserError: The report cannot be written.
    """
    from trash_seg.data.check_page import print_summary, write_json, write_page
    from trash_seg.data.examine import examine

    config = compose_config(overrides)
    examination = examine(
        config.data,
        cache_dir=Path(config.runtime.cache_dir).expanduser(),
        read_images=read_images,
        progress=config.runtime.progress,
    )
    print_summary(examination, console=get_console())
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "check.json", examination)
        write_page(out / "check.html", examination)
    except OSError as error:
        raise UserError(f"--out {out}: the report cannot be written there ({error.strerror})") from error
    print(f"report: {out / 'check.html'} and {out / 'check.json'}")
    return 1 if examination.num_errors else 0


if __name__ == "__main__":
    sys.exit(main())
