"""The plan, through the command line."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.conftest import Train
from trash_seg.compose import compose_config
from trash_seg.sweep.plan import COLUMNS, make_plan

DRY = ("-m", "hydra.sweeper.dry_run=true")


def rows(folder: Path, sweep: str = "default") -> list[dict[str, str]]:
    with (folder / "outputs" / sweep / "plan.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_pairs_in_one_plan(train: Train, tmp_path: Path) -> None:
    answer = train(*DRY, "encoder=glob(*)", "decoder=glob(*)", "training=log")
    assert answer.code == 0, answer.output
    plan = rows(tmp_path)
    assert len(plan) == 912
    assert tuple(plan[0]) == COLUMNS
    assert sum(row["state"] == "unsupported" for row in plan) == 133
    assert all(bool(row["reason"]) == (row["parameters"] == "") for row in plan if row["state"] == "unsupported")
    large = [row for row in plan if row["parameters"] and float(row["parameters"]) > 50e6]
    assert large and all("sweep.max_parameters=5e+07" in row["reason"] for row in large)
    assert "12 left out: a template option names no model" in answer.output
    todo = [row for row in plan if not row["reason"]]
    assert f"{len(todo)} to run" in answer.output
    assert plan[: len(todo)] == todo  # what starts comes first, the longest at the top
    gflops = [float(row["gflops"]) for row in todo]
    assert gflops == sorted(gflops, reverse=True)
    assert not any(path.is_dir() for path in (tmp_path / "outputs" / "default").iterdir())  # nothing was trained


def test_each_run_is_named_as_a_single_run_names_itself(train: Train, tmp_path: Path) -> None:
    train(*DRY, "encoder=resnet18,mit_b0", "decoder=FPN", "seed=1,2", "optimizer=sgd")
    single = compose_config(["encoder=mit_b0", "decoder=FPN", "seed=2", "optimizer=sgd"])
    assert single.run_id in [row["run"] for row in rows(tmp_path)]


def write_status(folder: Path, row: dict[str, str], state: str, **more: object) -> None:
    run_dir = folder / "outputs" / "default" / row["run"]
    run_dir.mkdir()
    training = {"epochs": 4, "batch_size": 8}
    status = {
        "schema": 1, "state": state, "hash": row["hash"], "config": {"training": training}, "error": None,
        "parameters": int(row["parameters"]), "gflops": float(row["gflops"]), "seconds": 60.0,
        "peak_memory_bytes": 10**9, **more,
    }  # fmt: skip
    (run_dir / "status.json").write_text(json.dumps(status))


def test_done_and_failed_runs_are_left_out_and_measured_ones_predict(train: Train, tmp_path: Path) -> None:
    grid = ("encoder=resnet18,resnet34,mobilenet_v2", "decoder=Unet", "seed=1,2")
    train(*DRY, *grid)
    before = {(row["encoder"], row["seed"]): row for row in rows(tmp_path)}
    assert all(row["predicted_seconds"] == "" for row in before.values())
    write_status(tmp_path, before["resnet18", "1"], "done")
    write_status(tmp_path, before["resnet34", "1"], "failed", error="RuntimeError: cold feet")
    write_status(tmp_path, before["mobilenet_v2", "1"], "interrupted")
    train(*DRY, *grid)
    after = {(row["encoder"], row["seed"]): row for row in rows(tmp_path)}
    assert after["resnet18", "1"]["reason"] == "done"
    assert "cold feet" in after["resnet34", "1"]["reason"]
    assert [row["state"] for row in after.values() if not row["reason"]].count("interrupted") == 1
    assert after["resnet18", "2"]["predicted_seconds"] == "60.0"  # its replicate took so long
    assert float(after["resnet34", "2"]["predicted_seconds"]) > 60
    assert float(after["resnet34", "2"]["predicted_memory"]) > 0
    answer = train(*DRY, *grid, "sweep.retry_failed=true")
    assert "1 left out: done" in answer.output
    assert "5 to run" in answer.output


def test_the_flag_of_a_sweep_may_stand_anywhere(train: Train) -> None:
    for arguments in (("seed=1,2", *DRY), ("hydra.sweeper.dry_run=true", "seed=1,2", "--multirun")):
        answer = train("encoder=resnet18", "decoder=Unet", *arguments)
        assert answer.code == 0 and "2 to run" in answer.output


def test_what_failed_with_another_data_folder_runs_again(train: Train, tmp_path: Path) -> None:
    train(*DRY, "encoder=resnet18", "decoder=Unet", "seed=1,2")
    first, second = rows(tmp_path)
    write_status(tmp_path, first, "failed", error="/nothere: is not there", config={"data": {"root": "/nothere"}})
    write_status(tmp_path, second, "failed", error="RuntimeError: cold feet", config={"data": {"root": None}})
    answer = train(*DRY, "encoder=resnet18", "decoder=Unet", "seed=1,2")
    assert "1 to run" in answer.output and "1 left out: failed before" in answer.output


def test_weights_that_smp_does_not_list_and_the_same_run_twice(train: Train, tmp_path: Path) -> None:
    answer = train(*DRY, "encoder=resnet18,dpn92", "encoder.weights=imagenet", "seed=1,1")
    assert "1 left out: the same run twice" in answer.output or "2 left out: the same run twice" in answer.output
    assert "no imagenet weights for dpn92, only imagenet+5k" in [row["reason"] for row in rows(tmp_path)]


def test_the_size_that_a_network_refuses(train: Train, tmp_path: Path) -> None:
    train(*DRY, "encoder=resnet18", "decoder=PAN,Unet", "training.image_size=64")
    reasons = {row["decoder"]: row["reason"] for row in rows(tmp_path)}
    assert reasons == {"PAN": "the network refuses training.image_size=64", "Unet": ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoder=glob(nothing*)"], "encoder=glob(nothing*): matches nothing; there are"),
        (["seed=range(5,5)"], "seed=range(5,5): has no value"),
        (["seed=1,2", "seed=3,4"], "seed is given twice: seed=1,2 and seed=3,4"),
        (["sweep.name=a,b", "seed=1"], "sweep.name=a,b: is no part of what a run is"),
        (["runtime=cpu,auto"], "runtime=cpu,auto: is no part of what a run is"),
        (["data.root=a,b"], "data.root=a,b: is no part of what a run is"),
        (["encoder=resnet18,nope"], "Could not find 'encoder/nope'"),
        (["encoder=timm"], "encoder.name"),
        (["training.epoch=3,4"], "training.epoch"),
        (["training.epochs=0,4"], "training.epochs=0: must be >= 1"),
        (["optimizer.lr=interval(0,1)"], "a grid needs values"),
        (["hydra/sweeper=gird"], "Could not find 'hydra/sweeper/gird'"),
        (["decoder.name=Unnet,Unet"], "decoder.name=Unnet: SMP has unet"),
        *(
            pytest.param(arguments, message, marks=pytest.mark.slow)  # each asks a process that imports SMP or torch
            for arguments, message in (
                (["optimizer.name=Adan,Adam"], "optimizer.name=Adan: torch.optim has no such optimizer"),
                (["encoder.name=resnet81,resnet18"], "encoder.name=resnet81: SMP has no such encoder"),
                (
                    ["decoder=Unet,FPN", "+decoder.options={decoder_chanels: [8]}"],
                    "decoder.options.decoder_chanels: smp.Unet has encoder_depth",
                ),
                (
                    ["encoder=timm", "encoder.name=tu-resnet10t,tu-resnet18", "+decoder.options={chanels: [8]}"],
                    "decoder.options={'chanels': [8]}: tu-resnet10t × Unet refuses them (",
                ),
                (["seed=1,2", "+decoder.options={decoder_channels: [8]}"], "resnet18 × Unet refuses them (Model depth"),
                (["seed=1,2", "+optimizer.options={foreach: true, fused: true}"], "Adam refuses them (`fused` and"),
                (["optimizer=sgd,adam", "+optimizer.options.momentun=0.9"], "SGD refuses them (SGD.__init__() got an"),
            )
        ),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_starts(train: Train, tmp_path, arguments, message) -> None:
    answer = train("-m", *arguments)
    assert answer.code != 0
    assert message in answer.output
    assert "Traceback" not in answer.output
    assert not (tmp_path / "outputs").exists()


def test_only_an_encoder_without_a_name_is_a_template(train: Train, tmp_path: Path) -> None:
    """A data file of one's own that lacks a value is to be mended, not left out."""
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "mine.yaml").write_text("name: mine\nformat: toy\n")
    answer = train(*DRY, "data=toy,mine", "--config-dir", str(tmp_path / "mine"))
    assert answer.code == 2
    assert "Missing mandatory value: data." in answer.output
    named = train(*DRY, "encoder=timm,resnet18", "decoder=Unet")
    assert (named.code, "1 left out: a template option names no model" in named.output) == (0, True)


def test_a_folder_that_cannot_be_written(train: Train, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("in the way")
    answer = train(*DRY, "seed=1,2")
    assert answer.code != 0
    assert "sweep.name chooses the folder" in answer.output
    assert "Traceback" not in answer.output


def test_params_of_the_sweeper_stand_below_the_command_line(train: Train, tmp_path: Path) -> None:
    train(*DRY, "++hydra.sweeper.params={seed: '1,2', decoder: 'FPN,PAN'}", "decoder=Unet", "training.image_size=128")
    assert sorted((row["decoder"], row["seed"]) for row in rows(tmp_path)) == [("Unet", "1"), ("Unet", "2")]


def test_a_smaller_command_forgets_nothing_that_was_asked_for(train: Train, tmp_path: Path) -> None:
    assert train(*DRY, "encoder=resnet18,resnet34").code == 0
    assert train(*DRY, "encoder=resnet34", "seed=21,22").code == 0
    asked = [(row["encoder"], row["seed"]) for row in rows(tmp_path)]
    assert sorted(asked) == [("resnet18", "21"), ("resnet34", "21"), ("resnet34", "22")]


def test_the_table_is_whole_where_lines_do_not_wrap(tmp_path: Path) -> None:
    config = compose_config(["encoder=mobileone_s4", "decoder=UnetPlusPlus", "sweep.max_parameters=5"])
    shown = io.StringIO()
    make_plan([(config, [])], sweep_dir=tmp_path).show(Console(file=shown, width=40))
    (line,) = [line for line in shown.getvalue().splitlines() if "mobileone_s4" in line]
    assert line.rstrip().endswith("M parameters, sweep.max_parameters=5")
