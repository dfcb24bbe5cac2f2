"""A headless browser, in which tests look at pages as their readers do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
MILLISECONDS = 60_000.0  # for a page to show something, on a busy machine
COLOURS = 100  # of a picture that shows something; a blank page has one


@contextmanager
def headless_browser() -> Iterator[Browser]:
    """The browser of this machine; without one, the test is skipped."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("chromium is not installed, so the page cannot be looked at: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--disable-quic"])
        try:
            yield browser
        finally:
            browser.close()


def looked_at(page: Page, picture: Path, *shown: str) -> None:
    """Waits until a person sees all of `shown` on the page, and takes a picture of it, which its reader may open."""
    for text in shown:
        expect(page.get_by_text(text).locator("visible=true").first).to_be_visible(timeout=MILLISECONDS)
    page.wait_for_function("[...document.images].every((image) => image.complete)", timeout=MILLISECONDS)
    page.screenshot(path=picture, full_page=True)
    print(f"\npicture: {picture}")
    assert len(np.unique(matplotlib.image.imread(picture).reshape(-1, 4)[:, :3], axis=0)) > COLOURS
