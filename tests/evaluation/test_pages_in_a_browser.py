"""The pages in headless Chromium, from disk and without a network."""

import shutil

import pytest

from evaluation import html_pictures
from evaluation.html_benchmark import write_benchmark
from evaluation.tables import Result, lines
from tests.evaluation.pages import write_run

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<img src=x onerror=alert(1)>"
SCORES = {"good": [1.0, 1.5, 2.0, 2.5, 3.0], "hole": [1.8, 2.8, 5.0], EVIL: [1.2, 6.0]}
TYPES = [name for name, scores in SCORES.items() for _ in scores]
ALL = [score for scores in SCORES.values() for score in scores]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, tmp_path):
    """opened(path, width=..., dark=...) -> its page; at the end of the test there must be no error on any of them.

    It asks for tmp_path so that pages are closed before pytest removes that folder: pictures may still be loading.
    """
    errors, contexts = [], []

    def make(path, width=1280, dark=False):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", lambda request: errors.append(request.url))
        page.goto(path.as_uri())
        return page

    yield make
    for context in contexts:
        for page in context.pages:
            page.evaluate("0")  # the events that wait are handled
    found = list(errors)  # closing a page ends what it still loads, which is no error
    for context in contexts:
        context.close()
    assert found == []


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, TYPES, ALL)
    return folder / "report.html"


def names(page):
    return [card.get_attribute("data-name") for card in page.locator(".card").all()]


def set_threshold(page, value):
    """Typed; the gallery follows after a moment."""
    page.fill("#threshold-value", str(value))
    page.press("#threshold-value", "Enter")
    page.wait_for_timeout(250)


def test_the_numbers_are_those_of_the_threshold(opened, run_page):
    page = opened(run_page)
    for value, rejects, misses in (
        (2.2, "2 of 5 (40.0 %)", "2 of 5 (40.0 %)"),
        (3, "0 of 5 (0.0 %)", "3 of 5 (60.0 %)"),
    ):
        set_threshold(page, value)
        assert (page.inner_text("#false-rejects"), page.inner_text("#misses")) == (rejects, misses)
    page.click("text=no misses")
    assert page.inner_text("#misses") == "0 of 5 (0.0 %)"
    page.click("text=no false rejects")
    assert page.inner_text("#false-rejects") == "0 of 5 (0.0 %)" and page.input_value("#threshold-value") == "3"


def test_the_slider_moves_the_threshold_by_keyboard_and_the_marks_with_it(opened, run_page):
    page = opened(run_page)
    set_threshold(page, 1.1)
    before = [
        page.get_attribute(*which) for which in (("#threshold-line", "x1"), ("#roc-point", "cx"), ("#pr-point", "cx"))
    ]
    rejects = page.inner_text("#false-rejects")
    page.focus("#threshold")
    page.keyboard.press("End")
    after = [
        page.get_attribute(*which) for which in (("#threshold-line", "x1"), ("#roc-point", "cx"), ("#pr-point", "cx"))
    ]
    assert rejects == "4 of 5 (80.0 %)" and page.inner_text("#false-rejects") == "0 of 5 (0.0 %)"
    assert float(after[0]) > float(before[0]) and float(after[1]) == 0 < float(before[1])
    assert float(after[2]) == 0 < float(before[2])
    page.keyboard.press("Home")
    assert page.inner_text("#false-rejects") == "5 of 5 (100.0 %)"


def test_the_gallery_is_sorted_and_filtered(opened, run_page):
    page = opened(run_page)
    set_threshold(page, 2.2)
    labelled = sorted(zip(ALL, (f"{name}/{k:03}" for k, name in enumerate(TYPES)), strict=True), reverse=True)
    assert names(page) == [name for _, name in labelled]
    page.select_option("#order", "low")
    assert names(page) == [name for _, name in labelled[::-1]]
    page.select_option("#type", EVIL)
    assert names(page) == [f"{EVIL}/008", f"{EVIL}/009"]
    page.select_option("#type", "")
    page.select_option("#error", "missed")
    assert names(page) == [f"{EVIL}/008", "hole/005"]
    page.select_option("#error", "rejected")
    assert names(page) == ["good/003", "good/004"]
    page.select_option("#error", "any")
    set_threshold(page, 2.6)
    assert names(page) == [f"{EVIL}/008", "hole/005", "good/004"]
    assert page.inner_text("#shown") == "3 of 10 images"


def test_the_switch_changes_every_picture_and_the_legend(opened, run_page):
    page = opened(run_page)
    seen = set()
    for view in ("image", "mask", "map", "level 1", "level 2"):
        page.check(f"input[value='{view}']")
        cards = page.locator(".card").all()
        assert all(card.locator("img").first.get_attribute("alt").startswith(view) for card in cards)
        defective = page.locator(".card.defective").first
        assert defective.locator("img").count() == 1 + (view != "image")
        seen.add(tuple(img.get_attribute("src") for img in defective.locator("img").all()))
        assert page.locator(".legend:visible").count() == (view not in ("image", "mask"))
    assert len(seen) == 5


def test_every_picture_is_decoded_lazily(opened, run_page):
    page = opened(run_page)
    pictures = page.locator("#gallery img")
    assert all(picture.get_attribute("loading") == "lazy" for picture in pictures.all())
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("async (img) => (await img.decode(), img.naturalWidth)") == 256


def test_the_viewer_is_usable_by_keyboard(opened, run_page):
    page = opened(run_page)
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#viewer-name") == f"{EVIL}/009" and page.locator("#viewer-pictures figure").count() == 5
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-name") == "hole/007"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#viewer-name") == f"{EVIL}/009"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_phone_and_the_theme_follows_the_system(opened, run_page, dark):
    page = opened(run_page, width=360, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    red = int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red < 60) == dark


def test_a_thousand_images_lie_beside_the_page_and_stay_usable(opened, tmp_path, monkeypatch):
    types = ["good" if k % 2 else "hole" for k in range(1000)]
    monkeypatch.setattr("evaluation.pictures.Overlays._draw", small_only)
    write_run(tmp_path, types, [1 + k % 97 / 50 + (k % 2 == 0) for k in range(1000)])
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 60e6
    assert (tmp_path / "report.html").stat().st_size < 1e6
    page = opened(tmp_path / "report.html")
    assert page.locator(".card").count() < 200  # the others come when they are needed
    first = page.locator(".card img").first
    first.scroll_into_view_if_needed()
    assert first.evaluate("async (img) => (await img.decode(), img.naturalWidth)") == 256
    seconds = page.evaluate(
        """() => {
            const begin = performance.now();
            for (const [id, value] of [["order", "low"], ["type", "hole"], ["error", "missed"], ["order", "high"]]) {
                document.getElementById(id).value = value;
                document.getElementById(id).dispatchEvent(new Event("change"));
            }
            return (performance.now() - begin) / 1000;
        }"""
    )
    assert seconds < 2
    page.select_option("#error", "")
    page.select_option("#type", "")
    for _ in range(200):
        if page.locator(".card").count() == 1000:
            break
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(20)
    assert page.locator(".card").count() == 1000


def small_only(overlays, result):
    """In place of the large pictures of the folder maps/, which take most of the time."""
    overlays.thumbnails.add(
        result, result.image.transpose(1, 2, 0), html_pictures.colour_scale(overlays.normal, result.mask), 1.0
    )


@pytest.fixture(scope="module")
def benchmark_page(tmp_path_factory):
    page = tmp_path_factory.mktemp("benchmark") / "benchmark.html"
    values = {"st": (0.90, 0.7, 10), "rd": (0.95, 0.6, 40), EVIL: (0.93, 0.8, 80)}
    results = [
        Result(method, category, "default", seed, {"image_auroc": auroc, "aupro": aupro, "p50_ms": ms, "seconds": 9.0})
        for method, (auroc, aupro, ms) in values.items()
        for category in ("weave", "screw")
        for seed in (0, 1)
    ]
    write_benchmark(
        page, lines(results), results, [page.parent / str(k) for k in range(len(results))], "python3 benchmark.py", {}
    )
    return page


def test_the_matrix_and_the_front_follow_the_metric(opened, benchmark_page):
    page = opened(benchmark_page)
    assert page.locator("#matrix tbody tr").all_inner_texts()[0].split("\t") == ["st", *["90.0 ± 0.0"] * 3]
    assert page.locator("#matrix .best").all_inner_texts() == ["95.0 ± 0.0"] * 3
    on_front = "[...document.querySelectorAll('.on-front title')].map((title) => title.textContent.split(':')[0])"
    assert sorted(page.evaluate(on_front)) == ["rd", "st"]
    page.select_option("#metric", "aupro")
    assert page.locator("#matrix .best").all_inner_texts() == ["80.0 ± 0.0"] * 3
    assert sorted(page.evaluate(on_front)) == sorted(["st", EVIL])
    page.select_option("#cost", "seconds")
    assert page.evaluate(on_front) == [EVIL]


@pytest.mark.parametrize("dark", [False, True])
def test_a_benchmark_fits_a_phone(opened, benchmark_page, dark):
    page = opened(benchmark_page, width=360, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
