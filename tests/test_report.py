"""Tables of scores, learning curves and the page to look at."""

import base64
import csv
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from common.base.files import UserError
from common.data.annotations import Category
from common.data.image_set import ImageSet
from common.data.loader import FileSource
from common.evaluation import report
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
def page(tmp_path, predictions):
    """The path of a report with the photographs of its two mistakes, one of them damaged."""
    paths = [str(tmp_path / f"{image_id}.jpg") for image_id in predictions.ids]
    for path in paths:
        cv2.imwrite(path, np.full((60, 80, 3), 128, np.uint8))
    (tmp_path / "103.jpg").write_bytes(b"no photograph")
    images = ImageSet("", FileSource(paths, keys=predictions.ids), predictions.ids)
    scores = score(predictions, CATEGORIES)
    output = str(tmp_path / "val.csv")
    return report.write_report(output, "flags", scores, predictions, CATEGORIES, images)


def test_the_page_needs_nothing_but_itself(page):
    text = open(page, encoding="utf-8").read()  # noqa: SIM115
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    pictures = [read_picture(base64.b64decode(s.partition("base64,")[2])) for s in sources]
    assert [picture.shape for picture in pictures[1:]] == [(60, 80, 3)]  # 103 is damaged
    assert pictures[0].shape[0] > 300
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert "Salix &lt;alba&gt; × fragilis" in text and "Amanita &amp; co" in text


def test_names_that_would_be_formulas_or_fill_the_chart_are_shown_as_they_are(predictions):
    groups = ["$\\frac$", r"\$x$", "long " * 1000]
    categories = [Category(i, "name", group) for i, group in enumerate(groups)]
    chart = read_picture(report._draw_charts(score(predictions, categories)))
    assert chart.shape[1] < 1500


def test_programs_read_the_scores_from_a_csv(page):
    with open(page.replace(".html", ".csv"), encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {"table": "error by super-category", "row": "Plantae", "column": "top-1 error",
            "value": "0.5000"} in rows  # fmt: skip


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
def test_a_browser_shows_the_page_without_an_error(page, tmp_path):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr"]
    command += ["--window-size=1000,1400", f"--screenshot={tmp_path}/shot.png", f"file://{page}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert "CONSOLE" not in done.stderr
    shot = cv2.imread(str(tmp_path / "shot.png"))
    grey = (shot == 128).all(axis=2)  # the photograph of image 105
    assert grey.sum() > 5000
