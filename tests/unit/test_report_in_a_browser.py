"""The report in a headless Chromium: on a phone and a desk, light and dark, by axe-core's rules, and on paper."""

import io
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from ebb.report import page
from unit import reported

CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# As root there is no sandbox to be had; nothing is loaded but the page under test.
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WIDTHS = {"phone": 360, "desk": 1280}
BLOCKS = (
    "#asked",
    "#stages",
    "#timeline",
    "#candidates",
    "#pareto",
    "#comparison",
    "#mistakes",
    "#footprint",
    "#reaches",
    "#greener",
)
COLOURS_OF_A_PLOT = 20  # a blank area has one, letters alone a handful


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    assert found, "no Chromium: `make browser` installs one (apt-get install chromium-headless-shell)"
    with sync_playwright() as driver:
        shown = driver.chromium.launch(executable_path=found, args=SWITCHES)
        yield shown
        shown.close()


def opened(browser: Browser, width: int, scheme: str, run: dict) -> tuple[Page, list[str]]:
    """Return the page, and everything that it asked for."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    shown, asked = context.new_page(), []
    shown.on("request", lambda request: asked.append(request.url))
    shown.set_content(page.render(run).decode(), wait_until="load")
    return shown, asked


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids="-".join)
def report(request, browser):
    width, scheme = request.param
    shown, asked = opened(browser, WIDTHS[width], scheme, reported.digits())
    yield shown, asked, scheme
    shown.context.close()


def test_the_page_fits_shows_its_blocks_and_is_accessible(report):
    shown, asked, scheme = report
    assert [each for each in asked if not each.startswith(("data:", "about:"))] == [], "nothing is fetched"
    wide = shown.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], "only tables scroll sideways"
    for block in BLOCKS:
        box = shown.locator(block).bounding_box()
        assert box, f"{block} is not there"
        assert box["width"] > 200, block
        assert box["height"] > 100, block
        assert box["x"] >= 0, block
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(paper) < 200) == (scheme == "dark")
    for plot in ("#timeline", "#pareto"):
        picture = Image.open(io.BytesIO(shown.locator(plot).screenshot())).convert("RGB")
        assert len(picture.getcolors(1 << 20)) > COLOURS_OF_A_PLOT, f"{plot} is blank"
    found = Axe().run(shown).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:160]) for each in found] == []


def test_each_measured_candidate_has_a_mark_that_can_be_seen(browser):
    run = reported.digits()
    shown, _ = opened(browser, WIDTHS["phone"], "light", run)
    plot, marks = shown.locator("#pareto").bounding_box(), shown.locator("#pareto .mark").all()
    assert len(marks) == 1 + sum(each["status"] == "measured" for each in run["candidates"])
    for mark in marks:
        box = mark.bounding_box()
        assert plot["x"] <= box["x"] + box["width"] / 2 <= plot["x"] + plot["width"]
        assert plot["y"] <= box["y"] + box["height"] / 2 <= plot["y"] + plot["height"]


@pytest.mark.parametrize("made", [reported.residuals, reported.failed], ids=lambda each: each.__name__)
def test_other_pages_are_accessible_on_a_phone_too(browser, made):
    shown, _ = opened(browser, WIDTHS["phone"], "dark", made())
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [each["id"] for each in Axe().run(shown).response["violations"]] == []


def test_on_paper_nothing_is_folded_and_links_are_left_out(browser):
    shown, _ = opened(browser, 800, "dark", reported.digits())
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.locator("nav").is_hidden()
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    folded = shown.locator("details:not([open]) .decision").first
    assert folded.bounding_box()["height"] > 10, "what is folded on a screen is printed"
