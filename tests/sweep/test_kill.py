"""The kill test in small; `python -m tests.sweep.kill` is the whole."""

import random
from pathlib import Path

import pytest

from tests.sweep.kill import compare


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_ends_as_if_unbroken(tmp_path: Path) -> None:
    figures = compare(tmp_path, kills=4, epochs=4, moments=random.Random(21))
    assert figures.kills_in_training >= 2, figures
    assert figures.good, figures
