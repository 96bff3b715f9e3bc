"""The reports' pages in a real browser, headless Chromium: what a reader sees, clicks and types."""

import cv2
import numpy as np
import pytest

from common.data.annotations import Category
from common.data.image_set import ImageSet
from common.data.loader import FileSource
from common.evaluation import report
from common.evaluation.named_photographs import NamedPhotographs, write_page
from common.evaluation.scores import score
from common.evaluation.submission import Predictions, first_places
from tests import browser

HOSTILE = '"><img src=x onerror="hacked = 1"><script>hacked = 2</script>'
CATEGORIES = [
    Category(1, "Parus major", "Aves"),
    Category(2, "Corvus corax", "Aves"),
    Category(3, "Salix alba × fragilis", "Plantae"),
    Category(4, HOSTILE, "Plantae"),
    Category(5, "long" * 400, "Fungi & co"),
]
# Images of each class, and how many of them are taken for the next class.
IMAGES, MISTAKES, TRAIN_IMAGES = [6, 4, 5, 3, 2], [3, 1, 0, 3, 2], [12, 150, 9, 40, 1000]
NAMES = "#classes-table .name"

pytestmark = pytest.mark.skipif(browser.MISSING is not None, reason=browser.REASON)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture(scope="module")
def report_path(tmp_path_factory):
    """A report on 20 photographs of five classes."""
    folder = tmp_path_factory.mktemp("report")
    labels = np.repeat(np.arange(5), IMAGES)
    probabilities = np.full((len(labels), 5), 0.01)
    for row, label in enumerate(labels):
        is_wrong = (labels[:row] == label).sum() < MISTAKES[label]
        probabilities[row, (label + is_wrong) % 5] = 0.9 - row / 100
    ids = np.arange(len(labels))
    paths = [str(folder / f"{image_id}.jpg") for image_id in ids]
    for path in paths:
        cv2.imwrite(path, np.full((60, 80, 3), 128, np.uint8))
    predictions = Predictions(ids, *first_places(probabilities), labels)
    scores = score(predictions, CATEGORIES, np.repeat(np.arange(5), TRAIN_IMAGES))
    images = ImageSet("", FileSource(paths, keys=ids), ids)
    output = str(folder / "val.csv")
    return report.write_report(output, "the flags", scores, predictions, CATEGORIES, images)


@pytest.fixture
def page(chromium, report_path):
    """The browser with the report, on a screen, by day."""
    chromium.resize(1100)
    chromium.prefer("light")
    chromium.open(report_path)
    yield chromium
    assert chromium.complaints() == []
    assert chromium.run("return typeof hacked") == "undefined"


def header(column):
    return f"table:has(#classes-table) th:nth-child({column}) button"


def orders(page):
    """The names of the classes in their order, cut off, and what the headers say of it."""
    sorting = "return [...document.querySelectorAll('table:has(#classes-table) th')]"
    sorting += ".map((each) => each.ariaSort).filter(Boolean)"
    return [name[:5] for name in page.texts(NAMES)], page.run(sorting)


def test_a_click_on_a_header_sorts_the_classes(page):
    assert orders(page) == (['"><im', "longl", "Parus", "Corvu", "Salix"], ["descending"])
    page.click(header(2))  # by training images
    assert orders(page) == (["longl", "Corvu", '"><im', "Parus", "Salix"], ["descending"])
    page.click(header(2))
    assert orders(page) == (["Salix", "Parus", '"><im', "Corvu", "longl"], ["ascending"])
    page.click(header(1))
    assert orders(page) == (['"><im', "Corvu", "longl", "Parus", "Salix"], ["ascending"])


def test_a_keyboard_sorts_the_classes(page):
    page.run("document.querySelector(arguments[0]).focus()", header(3))
    page.press("Tab")
    assert page.run("return document.activeElement.textContent") == "top-1 error"
    page.press("Enter")
    assert orders(page) == (["Salix", "Corvu", "Parus", '"><im', "longl"], ["ascending"])
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"


def test_filters_show_a_part_of_everything(page):
    assert page.texts("output") == ["5 of 5 classes"]
    page.choose("[name=supercategory]", "Aves")
    assert orders(page)[0] == ["Parus", "Corvu"]
    assert page.texts(".pairs h3") == [
        "Parus major taken for Corvus corax",
        "Corvus corax taken for Salix alba × fragilis",
    ]
    assert set(page.texts("#mistakes ~ ul .true.name")) == {"Parus major", "Corvus corax"}
    page.choose("[name=frequency]", "many (> 100)")
    assert orders(page)[0] == ["Corvu"]
    page.choose("[name=supercategory]", "all")
    page.type("[name=name]", "LONGlong")
    assert orders(page)[0] == ["longl"]
    assert page.texts("output") == ["1 of 5 classes"]
    page.type("[name=name]", "er")
    assert orders(page)[0] == []
    after = "return getComputedStyle(document.querySelector('#classes-table'), '::after').content"
    assert page.run(after) == '"None match the filter."'


def test_names_are_text_whatever_they_hold(page):
    page.click(header(1))
    page.type("[name=name]", "onerror")
    assert page.texts(NAMES) == [HOSTILE]
    assert HOSTILE in page.texts(".pairs h3 .true")


def test_photographs_are_shown_with_what_they_show(page):
    pictures = page.run(
        "return [...document.images].map((i) => [i.complete && i.naturalWidth, i.alt])"
    )
    assert {width for width, _ in pictures} == {60, 80}
    # Beside its name in the table a photograph needs no other.
    assert {alt for _, alt in pictures} == {"", *(category.name for category in CATEGORIES)}
    page.run("document.querySelector('#mistakes').scrollIntoView()")
    shot = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert (shot == 128).all(axis=2).sum() > 5000


def contrast(page, selector):
    """The contrast of an element's text with the page (WCAG 2.1): 4.5 can be read well."""
    colours = "const [e, b] = [document.querySelector(arguments[0]), document.body]; return"
    colours += " [getComputedStyle(e).color, getComputedStyle(b).backgroundColor]"
    lights = []
    for colour in page.run(colours, selector):
        channels = np.array([int(c) for c in colour.strip("rgb()").split(",")]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        lights.append(linear @ (0.2126, 0.7152, 0.0722))
    return (max(lights) + 0.05) / (min(lights) + 0.05), lights[1]


@pytest.mark.parametrize(("scheme", "is_light"), [("light", True), ("dark", False)])
def test_it_can_be_read_by_day_and_by_night(page, scheme, is_light):
    page.prefer(scheme)
    for selector in ("h1", ".note", "nav a", ".true", ".wrong", "thead th", ".filter label"):
        ratio, paper = contrast(page, selector)
        assert (paper > 0.5) == is_light
        assert ratio > 4.5, selector


def test_a_phone_shows_the_page_without_scrolling_sideways(page):
    for width in (1100, 700, 390, 320):
        page.resize(width)
        assert page.run("return document.documentElement.scrollWidth") == width
    cells = "return [...document.querySelectorAll('#classes-table td')]"
    cells += ".every((e) => e.scrollWidth <= e.clientWidth)"
    assert page.run(cells)  # no number is cut off


def tree(page):
    """What a screen reader is given: [(role, name)]."""
    page.command("Accessibility.enable")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes
            if not node["ignored"]]  # fmt: skip


@pytest.mark.parametrize("width", [1100, 390])
def test_a_screen_reader_is_given_headings_tables_and_labels(page, width):
    page.resize(width)
    read = tree(page)
    assert ("heading", "Most confused") in read and ("navigation", "On this page") in read
    assert ("searchbox", "Name") in read and ("combobox", "Super-category") in read
    assert ("columnheader", "top-1 error") in read
    rows = [name for role, name in read if role == "rowheader" and "Corvus" in name]
    assert rows and ("cell", "25.0%") in read
    assert any(role == "image" and name.startswith("Accuracy against") for role, name in read)


def test_without_javascript_all_of_it_is_there(chromium, report_path):
    chromium.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(report_path)
        read = tree(chromium)
    finally:
        chromium.command("Emulation.setScriptExecutionDisabled", value=False)
    headers = [name for role, name in read if role == "rowheader"]
    for category in CATEGORIES:
        assert any(category.name in name for name in headers)
    roles = {role for role, _ in read}
    assert roles & {"searchbox", "button", "combobox"} == set()  # nothing that would do nothing


def test_named_photographs_are_sorted_and_filtered(chromium, tmp_path):
    paths = [str(tmp_path / f"{name}.jpg") for name in ("b", "c", "a")]
    for path in paths:
        cv2.imwrite(path, np.full((60, 80, 3), 128, np.uint8))
    ranked = np.array([[2, 0], [1, 3], [0, 2]])
    probabilities = np.float32([[0.5, 0.2], [0.9, 0.1], [0.6, 0.3]])
    names = [category.name for category in CATEGORIES]
    named = NamedPhotographs(paths, ranked, probabilities, names, [])
    chromium.resize(390)
    chromium.open(write_page(str(tmp_path / "out.csv"), "the flags", named))

    def shown():
        return [text[:5] for text in chromium.texts("#photographs-list .first")]

    assert shown() == ["Salix", "Corvu", "Parus"]
    for order, expected in (
        ("by name", ["Corvu", "Parus", "Salix"]),
        ("the most certain first", ["Corvu", "Parus", "Salix"]),
        ("the least certain first", ["Salix", "Parus", "Corvu"]),
        ("as given", ["Salix", "Corvu", "Parus"]),
    ):
        chromium.choose("[data-sorts]", order)
        assert shown() == expected
    chromium.type("[name=name]", "parus")  # two of its photographs: as first and as second name
    assert shown() == ["Salix", "Parus"]
    assert chromium.texts("output") == ["2 of 3 photographs"]
    assert chromium.run("return document.documentElement.scrollWidth") == 390
    assert chromium.complaints() == []
