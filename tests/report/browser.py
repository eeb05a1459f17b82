"""A page in a real browser without a display: what it asked for, what it complained of, and how fast it draws."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WORDS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

FRAMES = """async (seconds) => {
  const slider = document.querySelector('.slider'), most = Number(slider.max);
  let frames = 0, at = 0;
  const started = performance.now();
  while (performance.now() - started < 1000 * seconds) {
    at = (at + 1) % (most + 1);
    slider.value = at;
    slider.dispatchEvent(new Event('input', {bubbles: true}));
    await new Promise(requestAnimationFrame);
    frames += 1;
  }
  return [frames, (performance.now() - started) / 1000];
}"""
"""Moves the slider at every frame for so many seconds, and gives the frames and the seconds that they took."""


def missing() -> str | None:
    """Why no browser can be driven here; None where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install playwright)"
    return None if browser_path() else f"there is no browser: none of {', '.join(NAMES)}"


def browser_path() -> str | None:
    """The first browser on this machine."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def computed(browser: Browser) -> float:
    """What all processes of a browser have computed so far, in seconds."""
    session = browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return float(sum(process["cpuTime"] for process in found))


@dataclass
class Visit:
    """A page that was opened.

    Attributes:
        page: to be driven on.
        seconds: from the call until everything was drawn once.
        cpu: what all processes of the browser computed meanwhile; on a busy machine the rest is waiting.
        requests: addresses that were asked for, beside the file's own.
        complaints: errors and warnings of the console, and exceptions.
    """

    page: Page
    seconds: float = 0.0
    cpu: float = 0.0
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Browser]:
    """A browser, which is closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path(), args=list(WORDS))
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, path: Path, width: int = 1400, height: int = 900, *, dark: bool = False
) -> Iterator[Visit]:
    """A file in a window, which is closed at the end.

    Args:
        browser: see `running`.
        path: of the file.
        width, height: of the window, in pixels.
        dark: whether the reader prefers dark pages.
    """
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
    visit = Visit(page)
    address, before = path.resolve().as_uri(), computed(browser)
    page.on("request", lambda request: visit.requests.append(request.url) if request.url != address else None)
    page.on("console", lambda said: visit.complaints.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.goto(address)
    page.evaluate("() => new Promise(requestAnimationFrame)")
    visit.seconds = page.evaluate("() => performance.now() / 1000")
    visit.cpu = computed(browser) - before
    yield visit
    page.close()
