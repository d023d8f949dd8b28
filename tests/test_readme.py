"""Every command that README shows as a shell block is run, with fewer epochs and on small data."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT, TRASH190, run_module

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
SMALL = ["training.epochs=1", "training.image_size=64", "runtime.num_threads=2"]


def modules() -> list[list[str]]:
    return [shlex.split(command) for command in COMMANDS if command.startswith("python -m trash_seg.")]


def test_every_shell_command_is_one_that_is_run() -> None:
    """`make demo` and `make test` are what CI and a fresh clone run; the rest is run below."""
    others = [command for command in COMMANDS if not command.startswith("python -m trash_seg.")]
    assert [command.split()[:2] for command in others] == [["make", "demo"], ["make", "test"]]
    assert len(modules()) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("command", modules(), ids=" ".join)
def test_readme_command(command: list[str], tmp_path: Path) -> None:
    module, arguments = command[2], command[3:]
    if any("path/to/" in argument for argument in arguments):
        if not TRASH190.exists():
            pytest.skip(f"{TRASH190} is not there")
        arguments = [re.sub(r"path/to/\w+", str(TRASH190), argument) for argument in arguments]
    if module == "trash_seg.train":
        arguments = [*(a for a in arguments if not a.startswith("training.epochs")), *SMALL]
    completed = run_module(module, *arguments, cwd=tmp_path)
    assert completed.returncode == 0, completed.stdout + completed.stderr
