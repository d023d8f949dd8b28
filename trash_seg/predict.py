"""`python -m trash_seg.predict RUN_DIR …`: masks, overlays, probabilities, a submission, scores."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trash_seg.errors import UserError
from trash_seg.heavy import heavy_imports
from trash_seg.inference.options import NOTHING_TO_WRITE, PROBABILITY_TYPES, TTA, Options, number, positive_count

FACTOR = number(float, lambda value: 0 < value <= 8, "a factor in (0, 8]")
SHARE = number(float, lambda value: 0 <= value < 1, "a share in [0, 1)")

EPILOG = """
A folder or file is predicted as training saw images: resized to the training size, with --window in windows of that
many pixels. Masks are the largest class probability after bilinear resizing to the image's own size. The submission is
the label map at the training size, resized to the nearest pixel.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m trash_seg.predict", description="Predicts images with a run, or with several as an ensemble.",
        epilog=EPILOG,
    )  # fmt: skip
    cli.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="a run; several are averaged")
    _add_inputs(cli.add_argument_group("what to predict"))
    _add_outputs(cli.add_argument_group("what to write"))
    _add_method(cli.add_argument_group("how"))
    return cli


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    text = "a COCO file such as test.json, or folders and image files"
    group.add_argument("--data", type=Path, nargs="+", default=[], metavar="PATH", help=text)
    text = "this part of the dataset that the run was trained on; of several, where it is the same for all"
    group.add_argument("--split", choices=("val", "test"), help=text)
    group.add_argument("--data-root", type=Path, metavar="DIR", help="where that dataset lies now, if it has moved")
    text = "what the file names of a COCO file are relative to (default: its folder)"
    group.add_argument("--images", type=Path, metavar="DIR", help=text)
    text = "COCO file with annotations: prints mIoU, IoU by class and the confusion matrix"
    group.add_argument("--truth", type=Path, metavar="FILE", help=text)


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--masks", type=Path, metavar="DIR", help="index PNGs at the image's own size")
    group.add_argument("--overlays", type=Path, metavar="DIR", help="the mask over the image, with a legend")
    text = "class probabilities (C, H, W) as .npz, at the training size; of windows put together, at the image's own"
    group.add_argument("--probabilities", type=Path, metavar="DIR", help=text)
    text = "how they are stored (%(default)s; uint8: 255 is 1)"
    group.add_argument("--probability-type", choices=PROBABILITY_TYPES, default="float16", help=text)
    group.add_argument("--coco", type=Path, metavar="FILE", help="COCO results JSON with an RLE for each class")
    group.add_argument("--submission", type=Path, metavar="FILE", help="the competition's submission.csv")
    group.add_argument("--scores", type=Path, metavar="FILE", help="with the truth: its scores as JSON")
    text = "with the truth: confusion counts by image as .npz, as in a run's directory"
    group.add_argument("--confusion", type=Path, metavar="FILE", help=text)
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _add_method(group: argparse._ArgumentGroup) -> None:
    text = "keep the best subset of the runs, chosen greedily on the validation set (or --truth)"
    group.add_argument("--select", action="store_true", help=text)
    text = "average over flips (left-right; both ways), turns by 90°, or all eight (%(default)s)"
    group.add_argument("--tta", choices=TTA, default="none", help=text)
    text = "average over these factors of the training size"
    group.add_argument("--scales", type=FACTOR, nargs="+", default=[1.0], metavar="FACTOR", help=text)
    text = "cut larger images into windows of this side; each is resized to the training size"
    group.add_argument("--window", type=positive_count, metavar="PX", help=text)
    text = "least share of a window that its neighbour covers too (%(default)s)"
    group.add_argument("--overlap", type=SHARE, default=0.25, metavar="SHARE", help=text)
    text = "images (or windows) a batch; default: as in training; on a CPU 4, where nothing is scored"
    group.add_argument("--batch-size", type=positive_count, metavar="N", help=text)
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA if there is one"
    )
    group.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: as in training")
    group.add_argument("--num-threads", type=positive_count, metavar="N", help="CPU threads of the network")
    group.add_argument("--allow-unfinished", action="store_true", help="take the best epoch so far of a run not done")


def check(options: Options) -> None:
    """Refuses options that contradict each other.

    Raises:
        UserError: With the way out.
    """
    if options.split is not None and options.data:
        raise UserError("--split and --data both say what to predict; give one")
    if options.split is None and not options.data and options.truth is None and not options.select:
        raise UserError("nothing to predict: give --data PATH, --split val, or --truth FILE")
    given = (*options.folders, *options.files, options.truth)
    if not any(given) and options.split is None and (options.data or not options.select):
        raise UserError(NOTHING_TO_WRITE)
    if options.split is not None and options.truth is not None:
        raise UserError("--split comes with its own truth; give --data with --truth")
    files = [path for path in (*options.data, options.truth) if path is not None and path.suffix == ".json"]
    if options.images is not None and not files:
        raise UserError("--images says where the images of a COCO file lie; --data and --truth give none")
    if options.data_root is not None and options.split is None and not options.select:
        raise UserError("--data-root says where the run's own dataset lies: for --split and --select")
    if options.select and (len(options.runs) < 2 or options.window is not None):
        raise UserError("--select chooses among two or more runs, on whole images: without --window")
    paths = [path.resolve() for path in (*options.folders, *options.files)]
    if len(set(paths)) < len(paths):
        raise UserError("two outputs have the same name")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if images could not be predicted, 2 if something given cannot be used, 130 by Ctrl-C."""
    options = Options(**vars(parser().parse_args(argv)))
    try:
        check(options)
        from rich import get_console

        with heavy_imports():
            from trash_seg.inference.pipeline import run_prediction

        return run_prediction(options, get_console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
