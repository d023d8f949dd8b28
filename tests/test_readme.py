"""Every command that README shows as a shell block is run, in its order and one folder, on small data."""

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
MAKE = [command for command in COMMANDS if command.startswith("make ")]
MODULES = [shlex.split(command)[2:] for command in COMMANDS if command.startswith("python -m ")]
SMALL = ["training.epochs=1", "training.image_size=32", "training.batch_size=8"]


def test_no_shell_command_is_left_out() -> None:
    """The two targets of make are what CI and a fresh clone run; the rest is run below."""
    assert MAKE == ["make demo", "make test"]
    assert len(MAKE) + len(MODULES) == len(COMMANDS)


@pytest.mark.slow
def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path: Path) -> None:
    for module, *arguments in MODULES:
        if any("path/to/" in argument for argument in arguments):
            if not TRASH190.exists():
                continue
            arguments = [re.sub(r"path/to/\w+", str(TRASH190), argument) for argument in arguments]
        if module == "trash_seg.train":
            arguments = [*(a for a in arguments if not a.startswith("training.epochs")), *SMALL]
            if "hydra/sweeper=halving" in arguments:
                arguments.append("training.epochs=2")  # or there is nothing to halve
        # A glob of a run directory is the shell's to expand.
        expanded = [str(p) for a in arguments for p in (sorted(tmp_path.glob(a)) if "*" in a and "=" not in a else [a])]
        completed = run_module(module, *expanded, cwd=tmp_path)
        assert completed.returncode == 0, f"{module} {expanded}\n{completed.stdout}{completed.stderr}"
