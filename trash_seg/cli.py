"""The console script: `trash-seg train …` is `python -m trash_seg.train …`."""

import os
import runpy
import sys

COMMANDS = {
    "train": "one run, or with -m a sweep",
    "report": "which models are truly better: leaderboard, page, curves",
    "check": "every defect in a dataset, before any training",
    "predict": "masks, overlays and submission.csv from a run",
    "export": "a run as an ONNX or torch.export file",
    "weights": "pretrained weights into a folder, for machines without a network",
}


def main() -> None:
    """Runs the command named first."""
    if sys.argv[1:2] == ["-sc"]:
        _complete()
        return
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked_for_help = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
        print("usage: trash-seg COMMAND …\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:8} {purpose}")
        sys.exit(0 if asked_for_help else 2)
    command = sys.argv.pop(1)
    runpy.run_module(f"trash_seg.{command}", run_name="__main__", alter_sys=True)


def _complete() -> None:
    """What bash asks for: its completion to install, or words that may follow, which Hydra knows for training."""
    _, _, line = os.environ.get("COMP_LINE", "").partition(" ")
    command, space, _ = line.lstrip().partition(" ")
    if sys.argv[2:] == ["query=bash"] and not space:
        print(" ".join(COMMANDS))
    elif sys.argv[2:] != ["query=bash"] or command == "train":
        os.environ["COMP_LINE"] = line.lstrip()
        runpy.run_module("trash_seg.train", run_name="__main__")
