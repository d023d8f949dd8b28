"""The page and its figures, without a browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from tests.report.simulate import write_run, write_sweep
from tests.report.test_rank import build
from trash_seg.report import figures
from trash_seg.report.advice import what_next
from trash_seg.report.page import Content, render
from trash_seg.report.reference import read_reference
from trash_seg.report.static import write_figures

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def show(sweep_dir: Path) -> tuple[Page, list[str]]:
    board = build(sweep_dir)
    published, note = read_reference("log210501")
    source, missing = render(Content("Sweep", board, what_next(board), published, note))
    return Page(source), missing


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    sweep_dir = tmp_path_factory.mktemp("sweep")
    write_sweep(sweep_dir, means=[0.40, 0.45, 0.43], num_images=12)
    write_run(sweep_dir, encoder=EVIL, decoder='"; alert(1); "', name="x-Unet-s21-0000000e", hash="0000000e", miou=0.44)
    trouble = {
        "state": "failed",
        "error": f"{EVIL} & more",
        "traceback": EVIL,
        "hint": EVIL,
        "command": f"python {EVIL}",
    }
    directory = write_run(sweep_dir, encoder="bad", hash="0000000f", finished=2, status=trouble)
    directory.log_path.write_text(f"the last line {EVIL}\n")
    return show(sweep_dir)[0]


def data_of(page: Page) -> dict[str, Any]:
    return json.loads(page.scripts[1])


def test_no_name_becomes_markup(page: Page) -> None:
    assert [dict(attrs) for tag, attrs in page.tags if tag == "script"] == [
        {}, {"type": "application/json", "id": "data"}, {},
    ]  # fmt: skip
    assert EVIL in page.text  # shown as it is
    assert f"the last line {EVIL}" in page.text
    assert "<script" not in page.scripts[1]


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.tags:
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:")), (tag, key, value)
        assert not [key for key in attributes if key.startswith("on")]
        assert "url(" not in (attributes.get("style") or "")
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def test_every_figure_is_valid_for_plotly(page: Page) -> None:
    data = data_of(page)
    for figure in (data["heat_map"], data["classes"], *data["cost"].values(), *data["confusion"]):
        go.Figure(figure)
    go.Figure({"data": data["published"]})
    assert set(data["cost"]) == {"parameters", "gflops", "minutes"}


def test_labels_of_figures_carry_no_markup(page: Page) -> None:
    data = data_of(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in data["heat_map"]["data"][0]["y"]
    assert not re.search(r"<(?!/?b>|br>|/?extra>)", json.dumps([data["heat_map"], data["curves"], data["cost"]]))


def test_sections_tables_and_pictures_are_there(page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    assert {
        "leaderboard", "sure", "next", "pairs", "curves", "cost", "classes", "images", "published", "failures",
        "settings",
    } <= ids  # fmt: skip
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert {link[1:] for link in links if link} <= ids
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3 * 12
    assert all(attributes.get("alt") for attributes in images)


def test_what_a_run_did_not_keep_is_said(tmp_path: Path) -> None:
    write_sweep(tmp_path, means=[0.40, 0.45])
    page, missing = show(tmp_path)
    assert [line.split(":")[0].split(" of ")[0] for line in missing] == [
        "No pictures", "No confusion matrix", "Image bootstrap without encoder00 FPN 00000002",
    ]  # fmt: skip
    assert all(line in page.text for line in missing)


def test_the_pareto_front_is_what_nothing_cheaper_beats(tmp_path: Path) -> None:
    for index, (millions, miou) in enumerate([(5, 0.30), (9, 0.40), (12, 0.35), (20, 0.41), (30, 0.41), (40, 0.2)]):
        write_run(tmp_path, encoder=f"e{index}", hash=f"{index:08x}", miou=miou, parameters=millions * 1_000_000)
    front = figures.cost(build(tmp_path).groups[0], "parameters")["data"][0]
    assert list(zip(front["x"], front["y"], strict=True)) == [(5, 0.30), (9, 0.40), (20, pytest.approx(0.41))]


def test_curves_have_a_band_over_the_seeds_that_reached_an_epoch(tmp_path: Path) -> None:
    band = figures._band([[0.1, 0.2, None], [0.3, 0.4]])
    assert band == {"mean": [0.2, 0.3, None], "low": [0.1, 0.2, None], "high": [0.3, 0.4, None]}
    assert figures._band([[0.1]]) == {"mean": [0.1]}


def test_the_confusion_matrix_shows_shares_of_the_truth() -> None:
    trace = figures.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])["data"][0]
    assert trace["z"] == [[0.75, 0.25], [None, None]]
    assert trace["customdata"] == [[3, 1], [0, 0]]


def test_two_rows_of_one_name_have_distinct_labels(tmp_path: Path) -> None:
    write_run(tmp_path, hash="00000001")
    write_run(tmp_path, hash="00000002")
    assert figures.labels(build(tmp_path).rows) == ["resnet18 Unet 00000001", "resnet18 Unet 00000002"]


def test_static_figures_show_any_name_and_are_reproducible(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", means=[0.40, 0.45])
    write_run(tmp_path / "sweep", encoder="$x_$混凝土<b>", name="x-Unet-s21-0000000e", hash="0000000e", miou=0.5)
    write_run(tmp_path / "sweep", encoder="late", hash="0000000f", finished=0, status={"state": "failed"})
    board = build(tmp_path / "sweep")
    written = write_figures(board, tmp_path)
    assert [path.name for path in written] == [
        "learning_curves.png", "learning_curves.svg", "heat_map.png", "heat_map.svg",
    ]  # fmt: skip
    first = [path.read_bytes() for path in written]
    assert "$x_$混凝土&lt;b&gt;" in first[1].decode()
    with Image.open(written[0]) as image:
        assert min(image.size) >= 600
    assert [path.read_bytes() for path in write_figures(board, tmp_path)] == first


def test_without_a_result_there_is_a_page_and_no_static_figure(tmp_path: Path) -> None:
    write_run(tmp_path, finished=0, status={"state": "running", "data": None})
    page, missing = show(tmp_path)
    assert "No run is done yet" in page.text
    assert missing == []
    assert write_figures(build(tmp_path), tmp_path) == []
