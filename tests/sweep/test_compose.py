"""Exchanging options between jobs gives what Hydra's full composition gives."""

import itertools
from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf.errors import MissingMandatoryValue

from trash_seg.compose import CONF_DIR
from trash_seg.config import Config, register, to_config
from trash_seg.sweep import compose
from trash_seg.sweep.compose import Composer


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def composer_for(loader, *overrides) -> Composer:
    return Composer(loader, loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN))


def product(*axes: list[str]) -> list[list[str]]:
    return [list(job) for job in itertools.product(*axes)]


GRIDS = [
    product(["encoder=resnet18", "encoder=mit_b0"], ["decoder=FPN", "decoder=Unet"], ["seed=1", "seed=2"]),
    product(["data=toy", "data=trash"], ["encoder=resnet18", "encoder=vgg11"], ["data.root=/x"]),  # weights follow data
    product(["training=log", "training=quick"], ["training.epochs=3", "training.epochs=5"]),  # a value in a group
    product(["optimizer=sgd", "optimizer=adam"], ["optimizer.lr=1e-3", "optimizer.lr=1e-4"]),
    product(  # nothing is left from the job before
        ["optimizer=sgd"],
        [f"optimizer.options={{{text}}}" for text in ("nesterov:false", "momentum:0.5", "momentum:0,nesterov:true")],
    ),
    product(["augmentation=none", "augmentation=log"], ["+decoder.options.a=1", "+decoder.options.a=2"]),
]


@pytest.mark.parametrize("jobs", GRIDS, ids=lambda jobs: " ".join(jobs[0]))
def test_each_job_is_what_a_single_run_would_be(loader, jobs) -> None:
    composer = composer_for(loader)
    assert composer.all(jobs) == [to_config(composer.in_full(job)) for job in jobs]


def test_most_jobs_are_not_composed_in_full(loader, monkeypatch) -> None:
    composer = composer_for(loader)
    full = []
    in_full = composer.in_full
    monkeypatch.setattr(composer, "in_full", lambda job: full.append(job) or in_full(job))
    composer.all(GRIDS[0])
    assert len(full) == 2  # the first, and the last as a check


def test_where_the_quick_way_is_wrong_all_are_composed_in_full(loader, monkeypatch) -> None:
    composer = composer_for(loader)
    right = composer.all(GRIDS[0])
    monkeypatch.setattr(compose, "_merged", lambda schema, values: values)  # forgets the schema
    monkeypatch.setattr(Composer, "_is_group", lambda self, override: True)  # takes values for groups
    assert composer_for(loader).all(GRIDS[0]) == right


def test_a_template_gives_the_error_that_names_what_is_missing(loader) -> None:
    configs = composer_for(loader).all(product(["encoder=resnet18", "encoder=timm", "encoder=resnet34"]))
    assert [type(config) for config in configs] == [Config, MissingMandatoryValue, Config]
    assert "encoder.name" in str(configs[1])
