"""A visitor's hands and eyes: the page in a real browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
WAIT_MS = 30_000


class Visit:
    """One browser's visit to the page."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.hosts = page, set[str]()
        page.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.goto(address)
        expect(self.seen("#title")).to_be_visible()

    def open(self, *tabs: str) -> None:
        """Tabs by their titles, from the outer to the inner."""
        for tab in tabs:
            self.page.get_by_role("tab", name=tab, exact=True).locator("visible=true").click()

    def seen(self, selector: str) -> Locator:
        """What is visible of the parts that the selector names."""
        return self.page.locator(selector).locator("visible=true")

    def click(self, label: str) -> None:
        """The visible button with this label."""
        button = self.page.get_by_role("button", name=label, exact=True)
        button.locator("visible=true").first.click()

    def write(self, text: str) -> None:
        """Types a message."""
        self.seen(".message textarea").fill(text)

    def add(self, *files: Path) -> None:
        """Adds files to the message."""
        with self.page.expect_file_chooser() as chooser:
            self.seen(".message [data-testid=upload-button]").click()
        chooser.value.set_files([str(file) for file in files])
        expect(self.seen(".message .thumbnail-item")).to_have_count(len(files))

    def send(self) -> None:
        """Sends the message."""
        self.seen(".message [data-testid=submit-button]").click()

    def answers(self) -> Locator:
        """What the model has said."""
        return self.seen(".conversation [data-testid=bot]")

    def wait_until_answered(self) -> None:
        """Until nothing is being worked on."""
        expect(self.page.locator(".generating, .pending")).to_have_count(0)


@contextmanager
def visiting(address: str, *, width: int = 1280, height: int = 900) -> Iterator[Visit]:
    """A browser that knows nothing of earlier visits."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield Visit(browser.new_page(viewport={"width": width, "height": height}), address)
        finally:
            browser.close()
