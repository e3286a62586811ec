"""`tracker report`: what is in the page, and a real browser that opens it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

import offline_tracker
from offline_tracker.alerts import Finding
from offline_tracker.curve import Span
from offline_tracker.findings import store
from offline_tracker.store import Runs

from .browser import NoBrowser, chromium, console, requests
from .conftest import curve_of
from .doubles.server import wait_until

TRACKER = Path(sys.executable).parent / "tracker"
HOSTILE = "<script>alert(1)</script>"
ENDINGS = '</script><!--<script>\u2028\u2029\x1b[31m\u202e&amp;"'


@pytest.fixture
def report(runs: Runs, tmp_path: Path) -> Callable[..., Path]:
    """Write a report of the runs; what the command said is in `said` beside it."""

    def write(*args: object, status: int = 0) -> Path:
        page = tmp_path / "report.html"
        command = [TRACKER, "report", runs.path, "-o", page, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        (tmp_path / "said").write_text(done.stdout + done.stderr)
        return page

    return write


@pytest.fixture
def browser() -> Iterator[Any]:
    try:
        with chromium() as driver:
            yield driver
    except NoBrowser as error:
        pytest.skip(str(error))


def record(runs: Runs, run_id: str, *rows: dict[str, Any], first: int = 0, **options: Any) -> None:
    offline_tracker.init(id=run_id, dir=runs.path, resume="allow", **options)
    for step, values in enumerate(rows, first):
        offline_tracker.log(values, step=step)
    offline_tracker.finish()


class Page(HTMLParser):
    """What a browser's parser finds in a page: the scripts, the style, the policy, and the elements by name."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: dict[str, str] = {}
        self.inline: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.policy = ""
        self._into: str | None = None
        text = path.read_bytes().decode()
        self.feed(text)
        self.close()
        self.document = json.loads(self.blocks["report"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag in ("script", "style", "title"):
            self._into = given.get("id", tag)
            if self._into == tag:
                self.inline.append("")

    def handle_data(self, data: str) -> None:
        if self._into in ("script", "style", "title"):
            self.inline[-1] += data
        elif self._into is not None:
            self.blocks[self._into] = self.blocks.get(self._into, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._into = None

    def column(self, place: dict[str, Any]) -> list[float]:
        """Read a column, as the script does it."""
        planes = gzip.decompress(base64.b64decode(self.blocks[f"column-{place['column']}"]))
        count = len(planes) // place["bytes"]
        raw = bytes(planes[byte * count + index] for index in range(count) for byte in range(place["bytes"]))
        numbers = list(array("f" if place["bytes"] == 4 else "d", raw))
        return list(accumulate(numbers)) if place["rising"] else numbers

    def curve(self, number: int, metric: str) -> dict[int, float]:
        """Return a metric of a run, step to value."""
        run = self.document["runs"][number]
        [found] = [one for one in run["metrics"] if one["name"] == metric]
        values, steps = self.column(found["values"]), self.column(run["steps"])
        rows = self.column(found["at"]) if found["at"] else range(len(steps))
        return {int(steps[int(row)]): value for row, value in zip(rows, values, strict=True)}


def test_the_page_holds_the_curves_as_they_are(runs: Runs, report: Callable[..., Path]) -> None:
    rows = [{"loss": 1 + math.sin(step) / 3, "near": 1e6 + step * 1e-4, "big": 10.0**step} for step in range(50)]
    rows[3] |= {"loss": math.nan}
    rows[4] |= {"loss": math.inf, "ok": True, "huge": -(10**400)}
    rows[5] |= {"rare": 0.1, "word": "hello"}
    rows[9] |= {"rare": 2**60}
    record(runs, "a1", *rows)
    record(runs, "a1", *rows[:3], first=40)  # a resume from before the end
    page = Page(report())
    kept = curve_of(runs, "a1")
    assert list(kept) == [*range(43)]
    for name in ("loss", "near", "big", "rare"):
        wanted = {step: float(values[name]) for step, values in kept.items() if name in values}
        assert page.curve(0, name) == pytest.approx(wanted, rel=1e-7, nan_ok=True)
    assert page.curve(0, "near") == {step: values["near"] for step, values in kept.items()}  # to the bit
    assert page.curve(0, "ok") == {4: 1.0}
    assert page.curve(0, "huge") == {4: -math.inf}
    [run] = page.document["runs"]
    assert run["texts"] == [["word", "hello"]]
    assert [attempt["row"] for attempt in run["attempts"]] == [0, 40]
    assert [(rewind["step"], rewind["from_step"], rewind["row"]) for rewind in run["rewinds"]] == [(39, 49, 40)]
    assert run["metrics"][0]["nonfinite"] == 2


def test_what_comes_from_a_run_can_end_no_block_of_the_page(runs: Runs, report: Callable[..., Path]) -> None:
    record(runs, "a1", {"a": 1.0, "b": "c"}, name="n", project="p", tags=["t"], config={"d": 1})
    harmless = Page(report())
    shutil.rmtree(runs.path)
    config = {HOSTILE: ENDINGS, "deep": {"on": [ENDINGS]}}
    record(runs, "a1", {HOSTILE: 1.0, ENDINGS: ENDINGS}, name=HOSTILE, project=ENDINGS, tags=[ENDINGS], config=config)
    path = report()
    page = Page(path)
    assert page.tags == harmless.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("style", "src")]
    assert [
        value for _, name, value in page.attributes if name == "href" and not value.startswith(("#", "data:"))
    ] == []
    [title, style, uplot, script] = page.inline
    assert title == HOSTILE
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (uplot, script, style)]
    assert re.findall(r"sha256-([^']+)", page.policy) == hashes
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in page.policy
    assert page.blocks["report"].isascii()
    assert not re.search("[<>&]", page.blocks["report"])
    [run] = page.document["runs"]
    assert run["name"] == HOSTILE
    assert dict(run["config"])[HOSTILE] == run["tags"][0]
    assert "\x1b" not in run["tags"][0]


def test_a_run_that_cannot_be_read_is_named_and_left_out(
    runs: Runs, report: Callable[..., Path], tmp_path: Path
) -> None:
    record(runs, "a1", {"loss": 1.0})
    record(runs, "a2")
    runs.folder("a3").mkdir()
    (runs.folder("a3") / "run.db").write_bytes(b"no database" * 1000)
    page = Page(report(status=1))
    assert [run["id"] for run in page.document["runs"]] == ["a1", "a2"]
    assert "run a3 is not in the report" in (tmp_path / "said").read_text()
    report("--run", "a3", status=1)
    assert Page(tmp_path / "report.html").document == page.document  # what was there is not replaced by nothing
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def plot(browser: Any, number: int = 0) -> Any:
    """Return a chart's element, once it is drawn."""
    from selenium.webdriver.common.by import By

    return wait_until(lambda: (browser.find_elements(By.CSS_SELECTOR, ".plot[aria-label]")[number:] or [None])[0])


def described(browser: Any, text: str, number: int = 0) -> str:
    """Return what a chart says of itself, once *text* is in it."""
    label = lambda: str(plot(browser, number).get_attribute("aria-label"))  # noqa: E731
    wait_until(lambda: text in label(), what=f"{text!r} in {label()!r}")
    return label()


def ink(browser: Any, number: int = 0) -> int:
    """Return how many points of a chart's canvas are of a strong colour: neither grid nor text."""
    return int(
        browser.execute_script(
            """const canvas = document.querySelectorAll(".plot canvas")[arguments[0]];
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let at = 0; at < data.length; at += 4)
              if (data[at + 3] > 200 && Math.abs(data[at] - data[at + 2]) > 60) count++;
            return count;""",
            number,
        )
    )


def test_a_browser_draws_zooms_and_toggles_and_asks_the_network_for_nothing(
    runs: Runs, report: Callable[..., Path], browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for slope, run_id in enumerate(("a1", "a2"), 1):
        rows = [{"loss": 8.0 - slope * step / 1000, "lr": 0.5**slope} for step in range(401)]
        rows[200] |= {"loss": math.nan}
        record(runs, run_id, *rows, name=f"slope {slope}", project="p", config={"slope": slope, "seed": 1})
    page = report()
    browser.get(page.as_uri())
    whole = described(browser, "step 0 to step 400")
    assert "slope 1: last 7.6, least 7.6, greatest 8" in whole
    both = ink(browser)
    assert both > 500

    over = plot(browser).find_element(By.CSS_SELECTOR, ".u-over")
    width = over.size["width"]
    ActionChains(browser).move_to_element_with_offset(over, -width // 4, 0).perform()
    tip = wait_until(lambda: browser.find_element(By.CSS_SELECTOR, ".tip:not([hidden])").text)
    step = int(re.findall(r"step (\d+)", tip)[0])
    assert abs(step - 100) <= 2
    assert f"slope 1 {8 - step / 1000:.5g}" in " ".join(tip.split())
    assert f"slope 2 {8 - step / 500:.5g}" in " ".join(tip.split())

    ActionChains(browser).click_and_hold().move_by_offset(width // 2, 0).release().perform()
    wait_until(lambda: "step 400" not in str(plot(browser).get_attribute("aria-label")))
    low, high = map(int, re.findall(r"step (\d+)", str(plot(browser).get_attribute("aria-label")))[:2])
    assert abs(low - 100) <= 3
    assert abs(high - 300) <= 3
    described(browser, f"step {low} to step {high}", number=1)  # all charts show the same stretch
    ActionChains(browser).key_down(Keys.SHIFT).click_and_hold(over).move_by_offset(-40, 0).release().key_up(
        Keys.SHIFT
    ).perform()
    wait_until(lambda: f"step {low} " not in str(plot(browser).get_attribute("aria-label")))
    ActionChains(browser).double_click(over).perform()
    described(browser, "step 0 to step 400")

    second = browser.find_elements(By.CSS_SELECTOR, ".legend button")[1]
    second.click()
    assert second.get_attribute("aria-pressed") == "false"
    wait_until(lambda: "slope 2" not in str(plot(browser).get_attribute("aria-label")))
    assert 0 < ink(browser) < both
    second.click()
    described(browser, "slope 2")

    plot(browser).send_keys(Keys.ARROW_LEFT)
    assert "slope 2" in browser.find_element(By.ID, "live").get_attribute("textContent")
    plot(browser).send_keys("+")
    wait_until(lambda: "step 0 " not in str(plot(browser).get_attribute("aria-label")))
    plot(browser).send_keys("0")
    for axis, text in (("Relative", "loss, 0s to "), ("Time", "loss, 20"), ("Step", "loss, step 0 ")):
        browser.find_element(By.XPATH, f"//button[text()='{axis}']").click()
        described(browser, text)
    browser.find_element(By.XPATH, "//button[text()='Log scale']").click()
    slider = browser.find_element(By.CSS_SELECTOR, "input[type=range]")
    slider.send_keys(Keys.END)
    assert slider.get_attribute("aria-valuetext") == "0.999"

    config = browser.find_element(By.CSS_SELECTOR, "section[aria-label=Config]")
    assert "seed" not in config.text  # the same in both: folded away
    config.find_element(By.TAG_NAME, "button").click()
    assert "seed" in config.text
    assert [row.get_attribute("class") for row in config.find_elements(By.CSS_SELECTOR, "tbody tr")] == [
        "differs",
        "same",
    ]
    light = browser.get_screenshot_as_png()
    browser.find_element(By.ID, "theme").click()
    assert browser.get_screenshot_as_png() != light
    assert console(browser) == []
    assert requests(browser) == [page.as_uri()]


def test_what_rules_found_is_listed_and_marked_in_the_chart_of_its_metric(
    runs: Runs, report: Callable[..., Path], browser: Any
) -> None:
    from selenium.webdriver.common.by import By

    record(runs, "a1", *({HOSTILE: 1.0 + step % 2, "other": 1.0} for step in range(100)))
    finding = Finding("spike", HOSTILE, 50, 1e9, 51, f"jumps {HOSTILE}", "WARN")
    store(runs.folder("a1"), [finding, finding._replace(step=60, seq=999)], [Span(1, 100, None)])
    page = report()
    [alert] = Page(page).document["runs"][0]["alerts"]  # the other one is of no curve
    assert (alert["metric"], alert["step"], alert["row"]) == (HOSTILE, 50, 50)
    browser.get(page.as_uri())
    described(browser, "step 0 to step 99", 1)
    assert red(browser, 0) > 10
    assert red(browser, 1) == 0
    assert f"jumps {HOSTILE}" in browser.find_element(By.CSS_SELECTOR, "section[aria-label=Alerts]").text
    assert console(browser) == []


def red(browser: Any, number: int) -> int:
    """Return how many points of a chart's canvas have the colour of what is bad."""
    return int(
        browser.execute_script(
            """const canvas = document.querySelectorAll(".plot canvas")[arguments[0]];
            const probe = new OffscreenCanvas(1, 1).getContext("2d");
            probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--bad");
            probe.fillRect(0, 0, 1, 1);
            const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let at = 0; at < data.length; at += 4) count += data[at] === r && data[at + 1] === g && data[at + 2] === b;
            return count;""",
            number,
        )
    )


def test_a_browser_shows_hostile_names_as_text_and_runs_nothing_of_them(
    runs: Runs, report: Callable[..., Path], browser: Any
) -> None:
    from selenium.webdriver.common.by import By

    config = {f"{HOSTILE}<img src=x onerror=alert(2)>": ENDINGS, "__proto__": {"x": 1}}
    record(runs, "a1", {HOSTILE: 1.0, "__proto__": 2.0, "7": 3.0}, name=HOSTILE, project=HOSTILE, config=config)
    page = report()
    browser.get(page.as_uri())
    described(browser, f"{HOSTILE}, step 0 to step 0")
    assert browser.title == HOSTILE
    assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE
    assert [item.text for item in browser.find_elements(By.CSS_SELECTOR, "figcaption h3")] == [
        HOSTILE,
        "__proto__",
        "7",
    ]
    assert "onerror=alert(2)" in browser.find_element(By.CSS_SELECTOR, "section[aria-label=Config]").text
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert console(browser) == []
    assert requests(browser) == [page.as_uri()]
    # The policy holds for what would get in all the same, and both logs that are looked at above tell of it.
    browser.execute_script(
        """const script = document.createElement("script");
        script.textContent = "document.title = 'ran'";
        document.body.append(script);
        fetch("http://127.0.0.1:9/").catch(() => document.body.append("refused"));"""
    )
    wait_until(lambda: "refused" in browser.find_element(By.TAG_NAME, "body").text)
    assert browser.title == HOSTILE
    assert len([line for line in console(browser) if "Content Security Policy" in line]) >= 2
