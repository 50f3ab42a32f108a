"""The page in a real browser, over a fake server: what a person does with it, by pointer and by keyboard."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from fake_server import KEY, LIGHT, FakeServer, fake_server
from index_tools import bag_of_words
from pdf_maker import lines_pdf
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = os.environ.get("NBCE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Chromium: apt-get install chromium, or set NBCE_CHROMIUM"
    ),
]

QUESTION = "When was the light at Skarrowmouth lit?"
ALLOWED = "Failed to load resource"  # what browsers say of each 401, which tests ask for


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, fake: FakeServer) -> Iterator[Callable[..., Page]]:
    """`open_page(**context)`: the page in a window of its own. Errors and refused loads fail the test."""
    fake.reset()
    contexts, faults = [], []

    def note(message: Any) -> None:
        if message.type in ("error", "warning") and ALLOWED not in message.text:
            faults.append(message.text)

    homes = {fake.url}

    def opened(hash: str = "", url: str | None = None, **options: Any) -> Page:
        homes.add(url or fake.url)
        options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if not ours(request.url) else None)
        page.goto((url or fake.url) + hash)
        return page

    def ours(url: str) -> bool:
        return url.startswith(tuple(homes))

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def ask(page: Page, question: str = QUESTION) -> None:
    expect(page.locator(".count")).to_be_visible()
    page.get_by_label("Question", exact=True).fill(question)
    page.keyboard.press("Enter")


def answered(page: Page, question: str = QUESTION) -> Page:
    ask(page, question)
    expect(page.locator(".figures")).to_be_visible()
    return page


def visible_text(page: Page, selector: str) -> str:
    """The text of an element without buttons and what only screen readers are told."""
    script = """element => {
        const copy = element.cloneNode(true);
        copy.querySelectorAll('.sr, button').forEach(one => one.remove());
        return copy.textContent;
    }"""
    return str(page.locator(selector).first.evaluate(script)).replace("\u2060", "").strip()


def chip(page: Page, number: int) -> Any:
    return page.locator(".answer .chip").nth(number - 1)


def test_a_question_is_answered_with_its_evidence(open_page: Callable[..., Page], fake: FakeServer) -> None:
    page = answered(open_page())
    [asked] = fake.asked
    assert asked["question"] == QUESTION
    assert asked["index"] == "harbour"
    assert (asked["k"], asked["stream"], asked["options"]) == (8, True, {})
    assert visible_text(page, ".answer") == LIGHT
    expect(page.locator(".answer .chip")).to_have_count(3)
    expect(page.locator(".answer .verbatim").first).to_have_text(re.compile("Skarrowmouth light was lit"))
    expect(page.locator(".answer .absent")).to_have_text("1935 (Not in the passages)")
    expect(page.get_by_text("Not in the passages: 1935")).to_be_visible()
    expect(page.locator(".sources .source.c1 mark")).to_have_text(LIGHT.split(". ")[0] + ".")
    expect(page.get_by_text("2 read, not cited")).to_be_visible()
    expect(page.get_by_text("Support: strong (0.62)")).to_be_visible()
    bar = page.get_by_role("img", name="What the whole answer rests on")
    shares = [int(share) for share in re.findall(r"(\d+) %", bar.get_attribute("aria-label") or "")]
    assert sum(shares) == 100
    tinted = page.locator(".answer .tinted").first
    before = tinted.evaluate("element => getComputedStyle(element).backgroundColor")
    assert before != "rgba(0, 0, 0, 0)"
    page.get_by_label("Colours of the passages").uncheck()
    expect(page.locator(".answer .tinted")).to_have_count(0)
    expect(page.locator(".answer .cited").first).to_be_visible()


def test_words_and_shares_come_as_they_are_sent(open_page: Callable[..., Page], fake: FakeServer) -> None:
    page = open_page()
    fake.halt = 0
    ask(page)
    expect(page.locator(".status")).to_have_text("Reading 5 passages …")
    fake.halt = 16
    answer = page.locator(".answer")
    expect(answer).to_have_text(re.compile("She kept$"))
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(chip(page, 1)).to_be_visible()
    expect(page.locator(".figures")).to_have_count(0)
    bar = page.locator(".bar span").first
    share = float(bar.evaluate("element => element.style.flexGrow"))
    expect(page.locator("#spoken p").first).to_have_text(re.compile("Brandt, its first keeper."))
    fake.halt = 30
    expect(chip(page, 2)).to_be_visible()
    assert float(bar.evaluate("element => element.style.flexGrow")) < share
    fake.halt = None
    expect(page.locator(".figures")).to_be_visible()
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(page.locator("#spoken")).to_contain_text("The answer is complete.")


def test_an_answer_can_be_stopped(open_page: Callable[..., Page], fake: FakeServer) -> None:
    page = open_page()
    fake.halt = 4
    ask(page)
    expect(page.locator(".answer")).to_contain_text("Skarrowmouth light")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped. The answer is not complete.").first).to_be_visible()
    until = time.monotonic() + 5
    while not fake.left and time.monotonic() < until:
        page.wait_for_timeout(20)
    assert fake.left == 1
    assert visible_text(page, ".answer") != LIGHT
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def test_a_citation_opens_its_place(open_page: Callable[..., Page]) -> None:
    page = answered(open_page())
    expect(chip(page, 1)).to_have_attribute("aria-expanded", "false")
    chip(page, 1).click()
    pane = page.get_by_role("complementary", name="Source")
    expect(pane.get_by_role("heading")).to_be_focused()
    expect(chip(page, 1)).to_have_attribute("aria-expanded", "true")
    expect(pane.locator("mark.chosen")).to_have_text(LIGHT.split(". ")[0] + ".")
    expect(pane.get_by_text("this is the youngest")).to_be_visible()
    expect(pane.locator("mark.chosen")).to_be_in_viewport()
    expect(pane.get_by_role("link", name="Whole source")).to_have_attribute(
        "href", "source/harbour/light-1?expires=1&signature=x"
    )
    chip(page, 2).click()
    expect(pane.get_by_role("heading")).to_have_text("Ilse Brandt, a life")
    expect(pane.locator("mark")).to_have_count(0)  # it is not word for word: nothing is marked
    expect(pane.get_by_text("no words are marked in it")).to_be_visible()
    chip(page, 3).click()
    expect(pane.get_by_text("its page is not shown")).to_be_visible()
    page.keyboard.press("Escape")
    expect(pane).to_have_count(0)
    expect(chip(page, 3)).to_be_focused()


def test_notes_open_by_keyboard_and_by_pointer(open_page: Callable[..., Page]) -> None:
    page = answered(open_page())
    page.locator("#asked").evaluate("e => { e.tabIndex = -1; e.focus(); }")
    page.keyboard.press("Tab")  # Edit
    page.keyboard.press("Tab")
    expect(chip(page, 1)).to_be_focused()
    note = page.get_by_role("tooltip")
    expect(note).to_contain_text("The lights of the northern coast")
    expect(note.locator("mark")).to_contain_text("lit on 3 March 1931")
    expect(chip(page, 1)).to_have_attribute("aria-describedby", "note")
    page.keyboard.press("Escape")
    expect(note).to_have_count(0)
    expect(chip(page, 1)).to_be_focused()
    page.keyboard.press("Tab")
    expect(note).to_contain_text("not word for word")
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary").get_by_role("heading")).to_be_focused()
    page.keyboard.press("Escape")
    expect(chip(page, 2)).to_be_focused()
    page.get_by_label("Question", exact=True).focus()
    chip(page, 3).hover()
    expect(note).to_contain_text("page 4")
    note.hover()
    page.wait_for_timeout(300)
    expect(note).to_be_visible()  # it stays while the pointer is on it
    page.mouse.move(5, 5)
    expect(note).to_have_count(0)


def test_what_each_passage_would_say(open_page: Callable[..., Page], fake: FakeServer) -> None:
    page = answered(open_page())
    page.get_by_role("button", name="What would each passage say?").click()
    expect(page.get_by_text("The passages give 3 answers.")).to_be_visible()
    groups = page.locator(".compare > .groups > li")
    expect(groups).to_have_count(2)
    expect(page.get_by_text("1 more with hardly any weight")).to_be_visible()
    expect(groups.first).to_contain_text("weight 61 %")
    expect(page.get_by_text("1 says nothing")).to_be_visible()
    body = {"question": QUESTION, "index": "harbour", "k": 8, "options": {}}
    assert fake.asked[-1] == {"path": "compare", **body}
    groups.nth(1).get_by_role("button").click()
    expect(page.get_by_role("complementary")).to_contain_text("Minutes of the harbour board")


def test_passages_that_disagree_are_told(open_page: Callable[..., Page]) -> None:
    page = answered(open_page(), "Do they disagree?")
    conflict = page.get_by_role("region", name="The passages disagree")
    expect(conflict.locator("q")).to_have_text(["3 March 1931", "1934"])
    conflict.get_by_role("button", name="Minutes of the harbour board").click()
    expect(page.get_by_role("complementary")).to_be_visible()


def test_silence_is_a_state_of_its_own(open_page: Callable[..., Page]) -> None:
    page = answered(open_page(), "What does nobody know?")
    expect(page.get_by_role("heading", name="Not in these documents")).to_be_visible()
    expect(page.get_by_text("The passages do not answer this question.").last).to_be_visible()
    expect(page.get_by_text("These are the nearest ones")).to_be_visible()
    expect(page.locator(".sources .source")).to_have_count(5)
    expect(page.locator(".answer")).to_have_count(0)
    expect(page.get_by_text("Support: none (0.01)")).to_be_visible()


def test_a_key_is_asked_for_and_kept_in_the_tab(open_page: Callable[..., Page], fake: FakeServer) -> None:
    fake.key = KEY
    page = open_page()
    field = page.get_by_label("Key", exact=True)
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The server does not take this key.")).to_be_visible()
    field.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    answered(page)
    assert page.evaluate("sessionStorage.getItem('nbce-key')") == KEY
    assert KEY not in page.url + json.dumps(page.evaluate("({...localStorage})"))
    fake.key = "another"
    ask(page, "And now?")
    expect(field).to_be_visible()


def test_what_the_server_refuses_is_told(open_page: Callable[..., Page], fake: FakeServer) -> None:
    page = open_page()
    ask(page, "Are you busy?")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server is busy.")
    expect(alert).to_contain_text("32 questions wait.")
    expect(alert).to_contain_text("wait 7 seconds")
    expect(alert).to_contain_text("req-7")
    ask(page, "One that breaks")
    expect(alert).to_contain_text("The answer broke off.")
    expect(alert).to_contain_text("The model stumbled.")
    expect(page.locator(".answer")).to_contain_text("Skarrowmouth light")
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator(".figures, [role=alert]").first).to_be_visible()
    assert [one["question"] for one in fake.asked[-2:]] == ["One that breaks"] * 2


def test_a_server_that_loads_is_waited_for(open_page: Callable[..., Page], fake: FakeServer) -> None:
    fake.loads = 2
    page = open_page()
    expect(page.get_by_text("The server is loading its model.")).to_be_visible()
    page.get_by_label("Question", exact=True).fill(QUESTION)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    expect(page.get_by_text("The server is loading its model.")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator(".figures")).to_be_visible()


def test_options_filters_and_the_link(open_page: Callable[..., Page], fake: FakeServer) -> None:
    page = open_page()
    expect(page.locator(".count")).to_be_visible()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Passages to read").fill("4")
    page.get_by_label("Fusion rule").select_option("experts")
    page.get_by_label("Follow leads to further passages").check()
    for name, op, value in (("year", "$gte", "1900"), ("lang", "$eq", "en, de")):
        page.get_by_role("button", name="Add a filter").click()
        expect(page.get_by_label("Field").last).to_be_focused()
        page.keyboard.type(name)
        page.get_by_label("Comparison").last.select_option(op)
        page.get_by_label("Value").last.fill(value)
    answered(page)
    asked = {key: fake.asked[-1][key] for key in ("k", "look", "where", "options")}
    where = {"$and": [{"year": {"$gte": 1900}}, {"lang": {"$in": ["en", "de"]}}]}
    assert asked == {"k": 4, "look": True, "where": where, "options": {"fusion": "experts"}}
    hash = page.url.partition("#")[2]
    other = open_page("#" + hash)
    expect(other.get_by_label("Question", exact=True)).to_have_value(QUESTION)
    expect(other.get_by_text("This question came with the link.")).to_be_visible()
    assert len(fake.asked) == 1  # a link asks nothing by itself
    other.get_by_role("button", name="Ask", exact=True).click()
    expect(other.locator(".figures")).to_be_visible()
    assert {key: fake.asked[-1][key] for key in asked} == asked


def test_the_session_is_remembered_and_forgotten(open_page: Callable[..., Page]) -> None:
    page = answered(open_page())
    answered(page, "What does nobody know?")
    history = page.get_by_role("navigation", name="Earlier questions")
    history.get_by_role("button", name=QUESTION).click()
    expect(page.locator(".answer .chip")).to_have_count(3)
    page.reload()
    expect(history.get_by_role("listitem")).to_have_count(2)
    page.get_by_role("button", name="Forget them").click()
    expect(history).to_have_count(0)
    assert page.evaluate("sessionStorage.getItem('nbce-history')") == "[]"


def test_an_answer_is_copied_as_markdown(open_page: Callable[..., Page]) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    answered(page)
    page.get_by_role("button", name="Copy as Markdown").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    lines = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert lines[0] == f"**{QUESTION}**"
    assert "its first keeper.[1] She kept" in lines[2]
    assert [line for line in lines[3:] if line] == [
        "Sources:",
        "1. The lights of the northern coast, corpus/lights.md",
        "   > Skarrowmouth light was lit on 3 March 1931 by Ilse Brandt, its first keeper.",
        "2. Ilse Brandt, a life, corpus/brandt.txt",
        "3. Minutes of the harbour board, page 4, archive/minutes 1934.pdf",
    ]
    page.get_by_role("button", name="Copy link").click()
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_code_stays_code(open_page: Callable[..., Page]) -> None:
    page = answered(open_page(), "How is code shown?")
    block = page.locator(".answer code.block")
    assert block.all_text_contents() == ["```python\nlamp.light(1931)\nlamp.turn()\n```\n"]
    expect(block.locator("button")).to_have_count(0)


@pytest.mark.parametrize(("writable", "shown"), [(False, 0), (True, 1)])
def test_files_are_taken_only_where_the_server_takes_them(
    open_page: Callable[..., Page], fake: FakeServer, tmp_path: Path, writable: bool, shown: int
) -> None:
    fake.writable = writable
    page = open_page()
    expect(page.locator(".count")).to_be_visible()
    page.get_by_text("Options", exact=True).click()
    field = page.locator("input[type=file]")
    expect(field).to_have_count(shown)
    if shown:
        (tmp_path / "new.txt").write_text("Fresh.")
        field.set_input_files(tmp_path / "new.txt")
        expect(page.get_by_text("Adding new.txt … 3 of 7 passages")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        expect(page.get_by_text("new.txt was added: 7 passages.")).to_be_visible()
        assert [one["path"] for one in fake.asked] == ["files", "job", "job"]


def test_chinese_and_signs_of_two_units(open_page: Callable[..., Page]) -> None:
    page = open_page(locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator(".count")).to_have_text("1,284 个段落")
    page.get_by_label("问题", exact=True).fill("水碓由谁设计？")
    page.get_by_role("button", name="提问").click()
    expect(page.locator(".figures")).to_be_visible()
    expect(page.locator(".answer .verbatim")).to_have_text("连珠水碓由陆家港的工师顾长汀设计")
    chip(page, 1).click()
    pane = page.get_by_role("complementary", name="来源")
    expect(pane.locator("mark.chosen")).to_have_text("连珠水碓由陆家港的工师顾长汀设计")
    page.get_by_role("button", name="切换到英文").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.get_by_text("Sources", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Ask the documents")).to_be_visible()


@pytest.mark.parametrize(("width", "height"), [(360, 740), (640, 450)])  # a telephone; 1280 x 900 at 200 %
def test_nothing_runs_over_a_narrow_window(open_page: Callable[..., Page], width: int, height: int) -> None:
    page = open_page(viewport={"width": width, "height": height}, has_touch=True)
    answered(page, QUESTION + " " + "unbreakable" * 12)
    page.get_by_text("Options", exact=True).click()
    page.get_by_role("button", name="Add a filter").click()
    page.get_by_text("2 read, not cited").click()
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(over) == 0
    chip(page, 1).click()
    pane = page.get_by_role("complementary")
    expect(pane.locator("mark.chosen")).to_be_in_viewport()
    box = pane.bounding_box()
    assert box is not None
    assert box["width"] == width
    assert page.evaluate(over) == 0
    pane.get_by_role("button", name="Close").click()
    expect(pane).to_have_count(0)


def test_nothing_moves_for_who_does_not_want_it(open_page: Callable[..., Page]) -> None:
    page = answered(open_page(reduced_motion="reduce"))
    style = "element => getComputedStyle(element).transitionProperty"
    assert page.locator(".bar span").first.evaluate(style) == "none"


@pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")
def test_words_are_marked_on_the_page_of_a_pdf(
    open_page: Callable[..., Page], reading_nbce: Any, run_app: Callable[..., Any], tmp_path: Path
) -> None:
    """Over the real server, which asks for a key: pictures of pages have none, and come all the same."""
    from nbce_rag.index import PassageIndex
    from nbce_rag.server import Served, ServerSettings, create_app

    (tmp_path / "codes.pdf").write_bytes(
        lines_pdf([(72, 720, "Nothing.")], [(72, 720, "The code of Zeta is seven blue apples.")])
    )
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add_files([tmp_path / "codes.pdf"])
        settings = ServerSettings(api_key=KEY, files=tmp_path / "files")
        running = run_app(create_app(settings, Served(reading_nbce, {"codes": index})))
        page = open_page(url=f"{running.url}/")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        answered(page, "What is the code of Zeta?")
        assert visible_text(page, ".answer").startswith("seven blue apples")
        chip(page, 1).click()
        pane = page.get_by_role("complementary", name="Source")
        picture = pane.get_by_role("img", name="Page 2 of codes.pdf, with the cited words marked")
        expect(picture).to_be_visible()
        assert picture.evaluate("element => element.decode().then(() => element.naturalHeight)") == 1600
        mark, sheet = pane.locator(".box.chosen").bounding_box(), picture.bounding_box()
        assert mark is not None
        assert sheet is not None
        # "seven blue apples" in Helvetica of 12 points stands 184 to 281 points from the left.
        scale = sheet["width"] / 612
        assert abs(mark["x"] - sheet["x"] - 184 * scale) < 6
        assert abs(mark["width"] - 97 * scale) < 12
        expect(pane.locator(".box.chosen")).to_be_in_viewport()
        expect(pane.locator("mark.chosen")).to_have_text("seven blue apples")
        page.close()
        running.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Callable[..., Page], scheme: str, tmp_path: Path) -> None:
    """Contrast, names, roles and structure, by axe-core's rules of WCAG AA and best practices.

    Pictures of what was checked stay in the folder of the test.
    """
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        pytest.skip("needs axe-playwright-python")
    script = (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    page = open_page(color_scheme=scheme, bypass_csp=True)

    def check(state: str) -> None:
        page.evaluate(script)
        violations = page.evaluate("async () => (await axe.run()).violations")
        told = [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in violations]
        assert told == [], state
        page.screenshot(path=tmp_path / f"{state}-{scheme}.png")

    expect(page.locator(".count")).to_be_visible()
    page.get_by_text("Options", exact=True).click()
    page.get_by_role("button", name="Add a filter").click()
    check("start")
    answered(page, "Do they disagree?")
    answered(page)
    page.get_by_role("button", name="What would each passage say?").click()
    expect(page.locator(".compare > .groups")).to_be_visible()
    check("answer")
    chip(page, 1).click()
    expect(page.locator(".dim").first).to_be_visible()
    check("source")
