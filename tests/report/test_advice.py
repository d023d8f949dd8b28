"""What to train next."""

import shlex
from pathlib import Path

import pytest

from tests.report.simulate import write_run
from tests.report.test_rank import build
from trash_seg.report.advice import MOST_SEEDS, NUM_RIVALS, what_next


def two(sweep_dir: Path, difference: float, *, sigma: float = 0.006) -> None:
    for index, mean in enumerate((0.40, 0.40 + difference)):
        for seed, sign in ((21, -1), (22, 1)):
            miou = mean + sign * sigma / 2**0.5
            write_run(sweep_dir, encoder=f"e{index}", hash=f"{index:08x}", seed=seed, miou=miou, parameters=40_000_000)


def test_the_seeds_that_would_decide_with_hours_and_commands(tmp_path: Path) -> None:
    two(tmp_path, 0.010)
    (step,) = what_next(build(tmp_path))
    assert step.rival.encoder == "e0"
    assert step.difference == pytest.approx(0.010)
    assert step.seeds is not None
    num = step.seeds - 2
    assert set(step.extra.values()) == {num}
    assert step.hours == pytest.approx(2 * num * 1000 / 3600)
    seeds = ",".join(str(23 + i) for i in range(num))
    assert [shlex.split(command) for command in step.commands] == [
        [
            "python",
            "-m",
            "trash_seg.train",
            "-m",
            f"encoder={e}",
            "decoder=Unet",
            "sweep.name=simulated",
            f"seed={seeds}",
        ]
        for e in ("e1", "e0")
    ]


def test_closer_than_the_margin_the_cheaper_is_advised(tmp_path: Path) -> None:
    two(tmp_path, 0.003)
    (step,) = what_next(build(tmp_path))
    assert (step.seeds, step.commands) == (None, [])
    assert "take the cheaper" in step.why


def test_what_would_take_too_many_seeds_is_as_good_as_tied(tmp_path: Path) -> None:
    two(tmp_path, 0.005, sigma=0.02)
    (step,) = what_next(build(tmp_path))
    assert step.seeds is not None
    assert step.seeds > MOST_SEEDS
    assert step.commands == []


def test_nothing_is_advised_where_one_stands_alone(tmp_path: Path) -> None:
    two(tmp_path, 0.2)
    assert what_next(build(tmp_path)) == []


def test_where_the_first_rivals_are_too_close_the_first_that_can_be_decided_follows(tmp_path: Path) -> None:
    for index, miou in enumerate([0.45, *[0.449] * 7, 0.44, 0.435]):
        write_run(tmp_path, encoder=f"e{index}", hash=f"{index:08x}", miou=miou)
    steps = what_next(build(tmp_path, sigma=0.005))
    assert [bool(step.commands) for step in steps] == [False] * NUM_RIVALS + [True]
    assert steps[-1].rival.encoder == "e8"


def test_names_are_quoted_for_the_shell(tmp_path: Path) -> None:
    two(tmp_path, 0.010)
    name = "$(touch hacked); 'x"
    run = write_run(tmp_path, encoder=name, hash="0000000e", miou=0.401, name="x-Unet-s21-0000000e")
    assert run.read_status() is not None
    step = next(step for step in what_next(build(tmp_path)) if step.rival.encoder == name)
    assert f"encoder={name}" in shlex.split(step.commands[-1])
