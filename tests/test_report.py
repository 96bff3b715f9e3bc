"""Tables of scores, learning curves and the page to look at."""

import base64
import csv
import re

import cv2
import numpy as np
import pytest

from common.base.files import UserError
from common.data.annotations import Category
from common.data.image_set import ImageSet
from common.data.loader import FileSource
from common.evaluation import page as parts
from common.evaluation import report, report_classes
from common.evaluation.scores import format_scores, score, sections
from common.evaluation.submission import Predictions, first_places
from common.training.curves import plot_curves

CATEGORIES = [
    Category(10, "Parus major", "Aves"),
    Category(20, "Salix <alba> × fragilis", "Plantae"),  # the names of hybrids hold U+00D7
    Category(30, "Amanita & co", "Fungi"),
]
COLUMNS = "epoch,lr,loss,top1,top5,val_loss,val_top1,val_top5,images_per_second,seconds\n"


def read_picture(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def draw(tmp_path, rows):
    (tmp_path / "log.csv").write_text(COLUMNS + rows)
    plot_curves(str(tmp_path / "log.csv"), str(tmp_path / "curves.png"))
    return read_picture((tmp_path / "curves.png").read_bytes())


def test_the_curves_show_training_and_validation(tmp_path):
    rows = "1,0.01,2,0.3,0.7,{0},40,2\n2,0.001,1,0.6,0.9,{1},41,2\n"
    with_val = draw(tmp_path, rows.format("1.8,0.4,0.8", "1.2,0.6,0.9"))
    without_val = draw(tmp_path, rows.format(",,", ",,"))
    red = [(abs(image.astype(int) - (91, 73, 209)).sum(axis=2) < 30).sum() for image in
           (with_val, without_val)]  # fmt: skip
    assert red[0] > 500
    assert red[1] == 0


@pytest.mark.parametrize("text", ["", COLUMNS, "a,b\n1,2\n", COLUMNS + "1,0.1,no number\n"])
def test_a_log_without_epochs_is_named(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(UserError, match=r"log\.csv"):
        plot_curves(str(tmp_path / "log.csv"), str(tmp_path / "curves.png"))
    assert not (tmp_path / "curves.png").exists()


@pytest.fixture
def predictions():
    """Six images, of which two are taken for the first class, one of them with great confidence."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.full((6, 3), 0.1)
    probabilities[np.arange(6), [0, 0, 0, 1, 0, 2]] = 0.8
    probabilities[4] = 0.98, 0.01, 0.01
    return Predictions(np.arange(101, 107), *first_places(probabilities), labels)


def test_the_tables_hold_the_errors_by_hand(predictions):
    scores = score(predictions, CATEGORIES, train_labels=[0] * 150 + [1] * 30 + [2] * 2)
    assert scores.overall.top1_error == pytest.approx(2 / 6)
    assert [group.top1_error for group in scores.by_supercategory] == [0, 0.5, 0.5]
    assert [group.group.split()[0] for group in scores.by_frequency] == ["few", "medium", "many"]
    assert scores.worst == [4, 2]
    assert ("Amanita & co", "Parus major", 1) in scores.confused
    assert re.search(r"^all +6 +0\.3333 +0\.0000$", format_scores(scores), re.MULTILINE)


def test_what_could_not_be_read_counts_as_an_error_but_not_as_what_the_network_said(predictions):
    everything = score(predictions, CATEGORIES)
    predictions.found = np.array([True, True, True, True, False, True])
    scores = score(predictions, CATEGORIES)
    assert scores.overall == everything.overall
    assert sum(images for _, _, images, _, _ in scores.calibration) == 5
    assert [taken for taken, _ in scores.pairs] == [(1, 0)] and scores.worst == [2]
    predictions.found[:] = False
    assert "calibration" not in format_scores(score(predictions, CATEGORIES))


def test_classes_without_super_categories_are_scored_all_together(predictions):
    categories = [category._replace(supercategory="") for category in CATEGORIES]
    scores = score(predictions, categories)
    assert scores.by_supercategory == []
    assert [row[0] for row in sections(scores)[0][2]] == ["all"]


def test_predictions_without_truth_are_not_scored(predictions):
    predictions.labels[0] = -1
    with pytest.raises(UserError, match="not known"):
        score(predictions, CATEGORIES)


@pytest.fixture
def make_page(tmp_path, predictions):
    """Write a report with the photographs of its two mistakes, one of them damaged."""
    paths = [str(tmp_path / f"{image_id}.jpg") for image_id in predictions.ids]
    for path in paths:
        cv2.imwrite(path, np.full((60, 80, 3), 128, np.uint8))
    (tmp_path / "103.jpg").write_bytes(b"no photograph")

    def make():
        images = ImageSet("", FileSource(paths, keys=predictions.ids), predictions.ids)
        scores = score(predictions, CATEGORIES)
        output = str(tmp_path / "val.csv")
        return report.write_report(output, "flags", scores, predictions, CATEGORIES, images)

    return make


@pytest.fixture
def page(make_page):
    """The path of the report."""
    return make_page()


def read(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def pictures_of(text, section):
    """The shapes of the pictures in a section of a page."""
    text = text.partition(f'<h2 id="{section}">')[2].partition("</section>")[0]
    encoded = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [read_picture(base64.b64decode(each)).shape for each in encoded]


def test_the_page_needs_nothing_but_itself(page):
    text = read(page)
    assert pictures_of(text, "mistakes") == [(60, 80, 3)]  # 103 is damaged
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert not re.search(r"https?://|<script |<link|@import|url\(", text)
    assert "default-src 'none'" in text
    assert "Salix &lt;alba&gt; × fragilis" in text and "Amanita &amp; co" in text


def test_a_class_is_shown_by_a_photograph_and_a_pair_by_those_of_both(page):
    text = read(page)
    # Of 103 and 104, class 20, the damaged one was mistaken: 104 is shown. Class 30: 105, 106.
    assert pictures_of(text, "classes") == [(60, 60, 3)] * 3
    # 105 was mistaken, and 101 and 102 were recognised; what 103 was taken for are the same two.
    assert pictures_of(text, "pairs") == [(60, 60, 3)] * 5


def test_a_photograph_that_could_not_be_read_stands_for_no_class(predictions):
    typical = report_classes.Photographs(predictions, None).typical()
    assert typical == {0: 1, 1: 3, 2: 5}  # of those of one confidence the last
    predictions.found = np.arange(6) != 5
    assert report_classes.Photographs(predictions, None).typical() == {0: 1, 1: 3, 2: 4}


def test_the_photographs_of_the_classes_have_a_limit(page, make_page, monkeypatch):
    size = len(read(page))
    monkeypatch.setattr(report_classes, "MOST_CLASS_BYTES", 1000)  # one has 700 bytes or so
    text = read(make_page())
    assert pictures_of(text, "classes") == [(60, 60, 3)]
    assert text.count('<span class="blank">') == 2
    assert len(text) < size


def test_without_photographs_the_page_has_the_same_tables(predictions, tmp_path):
    scores = score(predictions, CATEGORIES, train_labels=[0, 0, 1])
    text = read(report.write_report(str(tmp_path / "v.csv"), "", scores, predictions, CATEGORIES))
    assert "<img" not in text and 'id="mistakes"' not in text and 'class="blank"' not in text
    assert text.count('class="item"') == 2 + 3  # pairs and classes
    assert "Super-category <select" in text
    assert "Training images <select" not in text  # all classes are "few"


@pytest.mark.parametrize("shape", [(1, 3000, 3), (3000, 1, 3), (500, 400, 3), (20, 30, 3)])
def test_a_thumbnail_has_the_size_that_is_asked_for(shape):
    data = cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes()
    longer, square = (read_picture(parts.make_thumbnail(data, 96, is_square=is_square)).shape
                      for is_square in (False, True))  # fmt: skip
    assert max(longer) == min(96, max(shape))
    assert square == (min(96, *shape[:2]),) * 2 + (3,)


@pytest.mark.parametrize(("rows", "is_long"), [(999, False), (1000, True)])
def test_of_a_long_table_a_browser_lays_out_what_is_in_view(rows, is_long):
    table = parts.table([("class", "text")], [parts.row("x")] * rows)
    assert ('class="sortable long"' in table) == is_long


def test_a_page_is_made_in_any_folder(make_page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = read(make_page())
    assert "prefers-color-scheme: dark" in text and "makeSortable" in text


def test_the_classes_are_scored_by_hand(predictions):
    classes = score(predictions, CATEGORIES, train_labels=[0] * 150 + [1] * 30).classes
    assert [(c.label, c.images, c.top1_error, c.top5_error) for c in classes] == [
        (1, 2, 0.5, 0.0),
        (2, 2, 0.5, 0.0),
        (0, 2, 0.0, 0.0),
    ]
    assert [c.taken_for for c in classes] == [(0, 1), (0, 1), None]
    assert [(c.train_images, c.frequency.split()[0]) for c in classes] == [
        (30, "medium"),
        (0, "few"),
        (150, "many"),
    ]


def test_the_diagram_shows_each_bin_in_its_place(predictions):
    scores = score(predictions, CATEGORIES)
    text = report._draw_calibration(scores)
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)
    expected = [report._place(confidence, accuracy) for *_, confidence, accuracy in
                scores.calibration]  # fmt: skip
    np.testing.assert_allclose(np.array(dots, float), expected, atol=0.06)
    assert "confidence 90% to 100%: 1 images, 0.0% of them right" in text


def test_programs_read_the_scores_from_a_csv(page):
    with open(page.replace(".html", ".csv"), encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {"table": "error by super-category", "row": "Plantae", "column": "top-1 error",
            "value": "0.5000"} in rows  # fmt: skip
