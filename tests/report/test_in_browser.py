"""The report as a person uses it: the slider moved, a cell pointed at, the keyboard used; nothing asked of any network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gngraph.report.page import write_report
from tests.report.browser import Visit, missing, opened, running
from tests.report.made_runs import made_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

EVIL = "<img src=http://example.org/x onerror=alert(1)>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = made_run({"first": 30, "second": 20, EVIL: 12, "last": 40})
    return write_report([run], tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def visit(browser: Browser, report: Path) -> Iterator[Visit]:
    with opened(browser, report) as found:
        yield found
        assert (found.requests, found.complaints) == ([], [])


def caption(visit: Visit) -> str:
    return visit.page.inner_text(".caption")


def drawn(visit: Visit, row: int) -> str:
    """What a strip looks like."""
    picture: str = visit.page.evaluate(f"document.querySelectorAll('canvas')[{row}].toDataURL()")
    return picture


def test_the_slider_shows_round_after_round(visit: Visit) -> None:
    slider = visit.page.locator(".slider")
    seen, pictures = [], []
    for value in range(5):
        slider.fill(str(value))
        seen.append(caption(visit))
        pictures.append(drawn(visit, 0))
    assert seen == ["Seed", "Round 1 of 3", "Round 2 of 3", "Round 3 of 3", "Grown network"]
    assert len(set(pictures)) == 5
    assert visit.page.locator(".slider").get_attribute("aria-valuetext") == "grown network"
    slider.fill("2")
    assert "removed" in visit.page.locator(".space.gone").inner_text()
    assert "parameters" in visit.page.inner_text(".facts") and "its rewrite splits" in visit.page.inner_text(".facts")


def test_a_cell_that_is_pointed_at_tells_of_its_channel(visit: Visit) -> None:
    visit.page.locator(".slider").fill("2")
    visit.page.locator("canvas").first.hover(position={"x": 5, "y": 5})
    told = visit.page.inner_text(".tip")
    assert told.startswith("first, channel") and "of the seed, where it is channel" in told
    assert "split: predicted gain +" in told and " to " in told and "costs 120 parameters and 3,000 FLOPs" in told
    assert "removal: predicted gain −" in told and "frees 120 parameters" in told
    visit.page.mouse.move(5, 5)
    assert visit.page.locator(".tip").is_hidden()


def test_a_channel_that_is_clicked_stays_outlined_with_its_family(visit: Visit) -> None:
    visit.page.locator(".slider").fill("4")
    plain = drawn(visit, 0)
    visit.page.locator("canvas").first.click(position={"x": 5, "y": 5})
    visit.page.mouse.move(5, 5)
    assert drawn(visit, 0) != plain
    visit.page.locator("canvas").first.click(position={"x": 5, "y": 5})
    visit.page.mouse.move(5, 5)
    assert drawn(visit, 0) == plain


def test_the_keyboard_reaches_every_channel_and_round(visit: Visit) -> None:
    visit.page.locator(".slider").fill("1")
    visit.page.locator(".spaces").focus()
    keys = visit.page.keyboard
    keys.press("ArrowDown")
    assert visit.page.inner_text(".tip").startswith("first, channel 0 of ")
    keys.press("ArrowRight")
    assert visit.page.inner_text(".tip").startswith("first, channel 1 of ")
    keys.press("End")
    keys.press("ArrowDown")
    assert EVIL in visit.page.inner_text(".tip"), "the removed space is passed over"
    assert visit.page.inner_text(".tip") == visit.page.inner_text(".tip")
    keys.press("PageDown")
    assert caption(visit) == "Round 2 of 3" and visit.page.text_content(".live")
    keys.press("Escape")
    assert visit.page.locator(".tip").is_hidden()


def test_buttons_step_through_the_rounds(visit: Visit) -> None:
    visit.page.locator(".slider").fill("0")
    assert visit.page.locator(".back").is_disabled()
    visit.page.locator(".on").click()
    assert caption(visit) == "Round 1 of 3"
    visit.page.locator(".play").click()
    visit.page.locator(".caption", has_text="Round 2 of 3").wait_for()
    visit.page.locator(".play").click()


@pytest.mark.parametrize(("width", "dark"), [(1400, True), (400, False)])
def test_the_page_fits_windows_of_every_width(browser: Browser, report: Path, width: int, dark: bool) -> None:
    with opened(browser, report, width, dark=dark) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        cells = visit.page.evaluate(
            "[...document.querySelectorAll('canvas')].map((c) => c.getBoundingClientRect().right)"
        )
        assert max(cells) <= width
        assert (visit.requests, visit.complaints) == ([], [])
