"""A picture of the page with an answer, for the docs: `page_picture.py ADDRESS QUESTION FILE.png`."""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import sync_playwright


def main(address: str, question: str, file: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720}, locale="en-GB")
        page.goto(address)
        page.wait_for_selector(".count")
        page.get_by_label("Question", exact=True).fill(question)
        page.keyboard.press("Enter")
        page.wait_for_selector(".figures", timeout=300_000)
        page.locator(".chip").first.click()
        page.wait_for_selector(".dim, .pages", timeout=60_000)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
