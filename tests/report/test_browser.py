"""The page in a real browser: what people do with it works, no error is logged, and nothing leaves the file."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.report.conftest import open_page
from tests.report.simulate import write_run, write_sweep
from trash_seg.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # selenium leaves its log pipe to the garbage collector
]
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sweep_dir = tmp_path_factory.mktemp("sweep") / "sweep"
    write_sweep(sweep_dir, means=np.linspace(0.36, 0.46, 12).tolist(), num_images=12)
    write_run(sweep_dir, encoder=EVIL, decoder="Unet", name="x-Unet-s21-0000000e", hash="0000000e", miou=0.5)
    write_run(
        sweep_dir, encoder="late", hash="0000000f", finished=2, status={"state": "failed", "error": "out of memory"}
    )
    return write_report(sweep_dir)


def column(browser: Any, name: str) -> list[str]:
    """Sort values of a leaderboard column, shown rows only, from the top."""
    script = """
      const heads = [...document.querySelectorAll('#board thead th')];
      const at = heads.findIndex(head => head.textContent === arguments[0]);
      const shown = [...document.querySelectorAll('#board tbody tr')].filter(row => !row.hidden);
      return shown.map(row => row.cells[at].dataset.v);
    """
    return browser.execute_script(script, name)


def heading(browser: Any, name: str) -> Any:
    return browser.find_element("xpath", f"//*[@id='board']//th/button[text()='{name}']")


def complaints(browser: Any) -> list[dict[str, Any]]:
    return browser.get_log("browser")


def requests(browser: Any) -> list[str]:
    """Addresses of all requests since the page was opened."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


def screenshot(browser: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(browser.get_screenshot_as_base64()))).convert("L"))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_loads_without_error_and_asks_for_nothing(
    browser: Any, page_path: Path, width: int, dark: bool, tmp_path: Path
) -> None:
    open_page(browser, page_path, width=width, dark=dark)
    assert complaints(browser) == []
    assert requests(browser) == [page_path.resolve().as_uri()]
    overflow = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0  # nothing is cut off at the side
    pixels = screenshot(browser)
    assert (pixels.mean() < 80) == dark
    assert pixels.std() > 10  # not a blank page


def test_a_copied_page_works_in_another_folder(browser: Any, page_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.html"
    copy.write_bytes(page_path.read_bytes())
    open_page(browser, copy)
    assert complaints(browser) == []
    assert len(column(browser, "mIoU")) == 14


def test_names_are_text(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    shown = browser.execute_script("return document.querySelector('#chart-pairs').textContent")
    assert EVIL in shown


def test_a_click_sorts_and_another_turns_the_order(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    button = heading(browser, "mIoU")
    button.click()
    rising = column(browser, "mIoU")
    assert rising[-1] == ""  # what has no value stays last
    assert rising[:-1] == sorted(rising[:-1], key=float)
    button.click()
    falling = column(browser, "mIoU")
    assert falling == [*reversed(rising[:-1]), ""]
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


def test_the_keyboard_sorts_too(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    heading(browser, "parameters").send_keys("\ue007")  # Enter
    values = column(browser, "parameters")
    assert values == sorted(values, key=float)


def test_filters_narrow_the_table_and_reset_brings_all_back(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    before = column(browser, "configuration")
    field = browser.find_element("id", "filter-text")
    field.send_keys("encoder01 unet")
    assert column(browser, "configuration") == ["encoder01 Unet"]
    assert browser.find_element("id", "shown").text == "1 of 14 configurations"
    browser.find_element("id", "reset").click()
    assert column(browser, "configuration") == before
    browser.find_element("css selector", "[data-filter=decoder] option[value=FPN]").click()
    assert len(column(browser, "configuration")) == 3
    browser.find_element("css selector", "[data-filter=state] option[value=failed]").click()
    assert column(browser, "configuration") == []


def test_hovering_a_curve_names_it(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    chart = browser.find_element("id", "chart-curves")
    centre(browser, chart)
    place = """
      const points = document.querySelectorAll('#chart-curves .scatterlayer .trace .points path');
      const point = points[3].getBoundingClientRect();
      return [point.x + point.width / 2, point.y + point.height / 2];
    """
    x, y = browser.execute_script(place)
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x - 30, "y": y - 30})
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
    text = wait_for(browser, "return document.querySelector('#chart-curves .hoverlayer')?.textContent")
    assert "epoch 4: 0." in text


def centre(browser: Any, element: Any) -> None:
    """Scrolls it away from the bar at the top."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)


def wait_for(browser: Any, script: str) -> str:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 10).until(lambda b: b.execute_script(script))


def test_ticked_rows_are_drawn(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    count = "return document.querySelector('#chart-curves').data.filter(trace => trace.name).length"
    assert browser.execute_script(count) == 8
    box = browser.find_element("css selector", "#board input:checked")
    centre(browser, box)
    box.click()
    assert browser.execute_script(count) == 7


def test_choices_redraw_their_charts(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    for choice, chart in (("cost-axis", "cost"), ("curve-metric", "curves"), ("confusion-row", "confusion")):
        state = f"const c = document.getElementById('chart-{chart}'); return JSON.stringify([c.data[0].z, c.layout])"
        before = browser.execute_script(state)
        browser.find_element("css selector", f"#{choice} option:nth-child(3)").click()
        assert browser.execute_script(state) != before
    assert complaints(browser) == []


def test_a_command_is_copied_or_selected(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path)
    button = browser.find_element("css selector", "[data-copy]")
    centre(browser, button)
    button.click()
    assert wait_for(
        browser, "return ['Copied', 'Selected'].includes(document.querySelector('[data-copy]').textContent)"
    )


def test_on_paper_everything_is_light_and_complete(browser: Any, page_path: Path) -> None:
    open_page(browser, page_path, dark=True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    style = """
      const style = getComputedStyle(document.querySelector(arguments[0]));
      return [style.backgroundColor, style.display, style.maxHeight];
    """
    assert browser.execute_script(style, "body")[0] == "rgb(255, 255, 255)"
    assert browser.execute_script(style, "nav")[1] == "none"
    assert browser.execute_script(style, "#leaderboard .scroll")[2] == "none"  # no row is hidden behind a scroll bar
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})["data"]
    assert base64.b64decode(pdf).startswith(b"%PDF")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
