"""The console script."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import command_environment

BASH = """
eval "$(trash-seg -sc install=bash)"
complete -p trash-seg
COMP_LINE=$1 COMP_CWORD=$2
hydra_bash_completion
echo "${COMPREPLY[@]}"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trash-seg tr", "train"),
        ("trash-seg train encoder=resnext50", "encoder=resnext50_32x4d"),
        ("trash-seg train encoder=resnet18 decoder=DeepLabV3P", "decoder=DeepLabV3Plus"),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, expected: str) -> None:
    environment = command_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["bash", "-c", BASH, "bash", line, str(len(line.split()) - 1)]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert answer.stderr == ""
    installed, words = answer.stdout.splitlines()
    assert installed.endswith("-F hydra_bash_completion trash-seg")
    assert words == expected
