import dataclasses
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, command_environment
from trash_seg.compose import compose_config
from trash_seg.config import config_from_dict
from trash_seg.errors import ConfigError


def test_identity_ignores_runtime_sweep_place_and_seed() -> None:
    plain = compose_config([])
    moved = compose_config(
        ["runtime=cpu", "runtime.num_workers=3", "sweep.name=other", "data.root=/elsewhere", "runtime.cache=false"]
    )
    assert moved.run_id == plain.run_id
    replicate = compose_config(["seed=22"])
    assert replicate.hash == plain.hash
    assert replicate.run_id == plain.run_id.replace("-s21-", "-s22-")


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs=5",
        "training.precision=bf16",
        "optimizer.lr=2e-4",
        "loss=dice",
        "augmentation.horizontal_flip=0.4",
        "data.overlap=smallest_on_top",
        "data.class_of.UNKNOWN=Background",
        "encoder.weights=imagenet",
        "+decoder.options={decoder_channels: [64, 32, 16, 8, 4]}",
    ],
)
def test_identity_sees_what_may_change_the_result(override: str) -> None:
    assert compose_config([override]).hash != compose_config([]).hash


def test_equal_values_written_differently_are_one_run() -> None:
    ones, floats = (f"loss.class_weights=[{','.join([one] * 12)}]" for one in ("1", "1.0"))
    assert compose_config([ones]).hash == compose_config([floats]).hash
    assert compose_config(["optimizer.lr=0.0001"]).hash == compose_config(["optimizer.lr=1e-4"]).hash
    assert compose_config(["data.encoder_weights=ssl"]).hash == compose_config(["encoder.weights=ssl"]).hash


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=-1", "optimizer.lr=-1.0: must be > 0"),
        ("training.epochs=0", "training.epochs=0: must be >= 1"),
        ("training.precision=fp8", "training.precision=fp8: choose one of fp32, bf16, fp16"),
        ("augmentation.rotate90=1.5", "augmentation.rotate90=1.5: a probability"),
        ("loss.class_weights=[1,2]", "give 12 numbers"),
        ("loss.class_weights=heavy", "give null, balanced, or a list"),
        (
            "loss.class_weights=[inf,1,1,1,1,1,1,1,1,1,1,1]",
            "class_weights=[inf, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]: give",
        ),
        ("loss.class_weights=[0,0,0,0,0,0,0,0,0,0,0,0]", "not all 0"),
        ("loss.class_weights=[true,1,1,1,1,1,1,1,1,1,1,1]", "give null, balanced, or a list"),
        (
            "data.classes=[sky,tree]",
            "data.class_of.UNKNOWN=UNKNOWN: no such class; data.classes has sky, tree (data=coco",
        ),
        ("data.split_seed=-1", "data.split_seed=-1: must be >= 0"),
        ("+training.epoch=2", "training.epoch: there is no such setting; did you mean training.epochs?"),
        ("+trainig.epochs=2", "trainig: there is no such setting; did you mean training?"),
        ("+answer=42", "answer: there is no such setting"),
        ("data.class_of.Paper=Trash", "data.class_of.Paper=Trash: no such class"),
        ("data.num_folds=5", "folds need data.annotations"),
        ("data=trash", "data.root=DIR"),
        ("sweep.name=../x", "a folder name"),
        ("seed=-1", "seed=-1"),
        ("optimizer.lr=inf", "optimizer.lr=inf"),
        ("+optimizer.options.eps=nan", "optimizer.options"),
        ("scheduler.warmup_epochs=-1", "must be >= 0"),
    ],
)
def test_a_bad_range_names_key_value_and_rule(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config([override])
    assert message in str(caught.value)


def test_every_option_of_every_group_composes() -> None:
    for folder in sorted((ROOT / "conf").iterdir()):
        if folder.is_dir() and folder.name not in ("hydra", "encoder"):  # the encoders have a test of their own
            for path in sorted(folder.glob("*.yaml")):
                root = ["data.root=x"] if folder.name == "data" else []
                root += ["data.classes=[sky,tree]"] if path.stem == "coco" else []  # it names none
                config = compose_config([f"{folder.name}={path.stem}", *root])
                assert json.dumps(dataclasses.asdict(config))


def test_each_default_stands_once() -> None:
    """The schema holds no values: without the YAML nothing is set."""
    from trash_seg import config

    for schema in vars(config).values():
        if dataclasses.is_dataclass(schema):
            for field in dataclasses.fields(schema):
                assert field.default is dataclasses.MISSING
                assert field.default_factory is dataclasses.MISSING


def test_a_config_comes_back_from_a_status() -> None:
    config = compose_config(["decoder=FPN", "augmentation=strong", "seed=7"])
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    assert config_from_dict(settings) == config
    settings["training"]["colour"] = settings["training"].pop("epochs")
    with pytest.raises(ConfigError, match=r"training: settings of another version \(colour, epochs missing or unknown"):
        config_from_dict(settings)


def test_config_and_rundir_import_no_torch() -> None:
    code = "import sys, trash_seg.train; print([m for m in ('torch', 'cv2', 'numpy') if m in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], env=command_environment(), text=True, capture_output=True)
    assert completed.stdout.strip() == "[]", completed.stderr


def test_help_imports_no_torch() -> None:
    code = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules))
sys.argv = ["train", "--help"]
from trash_seg.train import main
main()
"""
    completed = subprocess.run([sys.executable, "-c", code], env=command_environment(), text=True, capture_output=True)
    assert "== Configuration groups ==" in completed.stdout, completed.stderr
    assert completed.stdout.splitlines()[-1] == "False"
