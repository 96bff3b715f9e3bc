"""From rows of probabilities to the CSV that Kaggle takes."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from common.base.files import UserError
from common.data.challenge import CsvFormat
from common.evaluation import submission
from common.evaluation.submission import PartialRows, Predictions, make_rows, row_type
from tests.conftest import limit_file_size

CATEGORY_IDS = [10, 20, 30, 40, 50, 60]


def random_probabilities(num_images, num_classes=6, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(num_classes), num_images)


def predictions_of(probabilities, first_id=1):
    ids = np.arange(first_id, first_id + len(probabilities))
    return Predictions(ids, *submission.first_places(probabilities), np.full(len(ids), -1))


def test_a_row_names_the_category_ids_best_first(tmp_path):
    probabilities = np.array([[0.1, 0.5, 0.2, 0.04, 0.06, 0.1]])
    submission.write_submission(tmp_path / "s.csv", predictions_of(probabilities), CATEGORY_IDS)
    assert (tmp_path / "s.csv").read_text() == "id,predicted\n1,20 30 10 60 50\n"


def test_of_three_classes_a_row_names_three(tmp_path):
    predictions = predictions_of(np.array([[0.1, 0.5, 0.4]]))
    submission.write_submission(tmp_path / "s.csv", predictions, [7, 8, 9])
    assert (tmp_path / "s.csv").read_text() == "id,predicted\n1,8 9 7\n"


def test_a_row_has_the_places_and_the_header_of_its_challenge(tmp_path):
    predictions = predictions_of(np.array([[0.1, 0.5, 0.2, 0.04, 0.06, 0.1]]))
    form = CsvFormat(2, "Id,Predicted")
    submission.write_submission(tmp_path / "s.csv", predictions, CATEGORY_IDS, form)
    assert (tmp_path / "s.csv").read_text() == "Id,Predicted\n1,20 30\n"


def test_ids_that_are_text_are_quoted_where_they_must_be(tmp_path):
    predictions = predictions_of(np.array([[0.1, 0.5, 0.4]] * 3))
    predictions.ids = np.array(["4f-uuid", "a,b", 'c"d'])
    submission.write_submission(tmp_path / "s.csv", predictions, ["07", "08", "09"])
    assert (tmp_path / "s.csv").read_text() == (
        'id,predicted\n4f-uuid,08 09 07\n"a,b",08 09 07\n"c""d",08 09 07\n'
    )


@pytest.mark.parametrize(
    "text, fault",
    [
        ("id,categories\n1,10 20 30 40 50\n2,10 20 30 40 50\n", "header"),
        ("id,predicted\n1,10 20 30 40 50\n", "1 images have no row, the first is 2"),
        ("id,predicted\n1,10 20 30 40 50\n1,10 20 30 40 50\n", "line 3: image 1 is unknown or"),
        ("id,predicted\n1,10 20 30 40 50\n3,10 20 30 40 50\n", "line 3: image 3 is unknown"),
        ("id,predicted\n1,10 20 30 40 50\n2,10 20 30 40\n", "line 3: not 5 distinct"),
        ("id,predicted\n1,10 20 30 40 50\n2,10 20 30 40 40\n", "line 3: not 5 distinct"),
        ("id,predicted\n1,10 20 30 40 50\n2,10 20 30 40 5\n", "line 3: an unknown category"),
    ],
)
def test_what_kaggle_would_reject_is_found(tmp_path, text, fault):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=fault):
        submission.check_submission(tmp_path / "s.csv", [1, 2], CATEGORY_IDS)


def test_a_submission_that_does_not_pass_does_not_appear(tmp_path):
    predictions = predictions_of(random_probabilities(2))
    predictions.ids[:] = 1
    with pytest.raises(ValueError, match="occurs twice"):
        submission.write_submission(tmp_path / "s.csv", predictions, CATEGORY_IDS)
    assert list(tmp_path.iterdir()) == []


def batch_of(first, count, pad=0, missing=()):
    keys = np.arange(first, first + count + pad)
    return SimpleNamespace(keys=keys, labels=keys % 6, pad=pad, missing=list(missing))


def test_interrupted_rows_go_on_behind_the_last_whole_one(tmp_path):
    dtype, probabilities = row_type(6, save_probabilities=True), random_probabilities(5)
    with PartialRows(tmp_path / "s.csv", {"crops": 1}, dtype) as rows:
        rows.append(make_rows(dtype, batch_of(1, 3, pad=2), probabilities[:3], labelled=False))
    with open(rows.path, "ab") as stream:
        stream.write(b"half a row")
    with PartialRows(tmp_path / "s.csv", {"crops": 1}, dtype, resume=True) as rows:
        assert len(rows) == 3
        rows.append(make_rows(dtype, batch_of(4, 2), probabilities[3:], labelled=False))
        assert rows.read()["id"].tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(rows.read()["probabilities"], probabilities, rtol=1e-3)


@pytest.mark.parametrize("num_bytes", [0, 20])
def test_a_run_that_was_killed_before_its_first_row_begins_anew(tmp_path, num_bytes):
    dtype = row_type(6, save_probabilities=False)
    path = PartialRows(tmp_path / "s.csv", {"crops": 1}, dtype).path
    os.truncate(path, num_bytes)
    with PartialRows(tmp_path / "s.csv", {"crops": 1}, dtype, resume=True) as rows:
        assert len(rows) == 0
        rows.append(make_rows(dtype, batch_of(1, 3), random_probabilities(3), labelled=False))
        assert rows.read()["id"].tolist() == [1, 2, 3]


def test_a_full_disk_names_the_csv(tmp_path, python):
    done = python(
        f"""
        import numpy as np
        from common.base.script import run_script
        from common.evaluation.submission import PartialRows, row_type
        dtype = row_type(6, save_probabilities=False)
        def main():
            with PartialRows({str(tmp_path / "s.csv")!r}, {{}}, dtype) as rows:
                for _ in range(9):
                    rows.append(np.zeros(100, dtype))
        run_script(main)
        """,
        preexec_fn=limit_file_size,
    )
    assert done.returncode == 2
    kept, reason = done.stderr.splitlines()
    assert kept.endswith("rows are kept; the same command with --resume goes on")
    assert reason.startswith(f"-c: {tmp_path}/s.csv: the file size limit")


def test_interrupted_rows_go_on_behind_the_last_round_of_all_devices(tmp_path):
    """Else the other device would compute an image, and in bfloat16 round it differently."""
    dtype = row_type(6, save_probabilities=False)
    with PartialRows(tmp_path / "s.csv", {}, dtype) as rows:
        rows.append(make_rows(dtype, batch_of(1, 7), random_probabilities(7), labelled=False))
    with PartialRows(tmp_path / "s.csv", {}, dtype, resume=True, together=2 * 2) as rows:
        assert rows.read()["id"].tolist() == [1, 2, 3, 4]


def test_rows_of_other_flags_are_not_continued(tmp_path):
    dtype = row_type(6, save_probabilities=False)
    PartialRows(tmp_path / "s.csv", {"crops": 1, "dtype": "int8"}, dtype)
    with pytest.raises(UserError, match=r"s\.csv: the interrupted run differs in crops;"):
        PartialRows(tmp_path / "s.csv", {"crops": 12, "dtype": "int8"}, dtype, resume=True)
    with_all = row_type(6, save_probabilities=True)
    with pytest.raises(UserError, match=r"differs in --save-probs or --places; repeat its flags"):
        PartialRows(tmp_path / "s.csv", {"crops": 1, "dtype": "int8"}, with_all, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_link_in_the_place_of_the_rows_is_not_written_through(tmp_path, resume):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".tmp-s.csv.rows").symlink_to("precious")
    with pytest.raises(UserError, match=r"\.tmp-s\.csv\.rows: is a link"):
        PartialRows(tmp_path / "s.csv", {"crops": 1}, row_type(6, False), resume)
    assert (tmp_path / "precious").read_text() == "precious"


def test_rows_come_in_the_order_that_is_wanted_and_guesses_fill_the_gaps():
    dtype = row_type(6, save_probabilities=True)
    batch = batch_of(1, 3, missing=[1])  # image 2 is damaged, image 9 has no photograph
    rows = make_rows(dtype, batch, random_probabilities(3), labelled=True)
    frequencies = submission.class_frequencies([4, 4, 4, 2, 2, 0], 6)
    predictions, chunks = submission.arrange(rows, [9, 3, 2, 1], frequencies)
    assert predictions.found.tolist() == [False, True, False, True]
    assert predictions.ranked[[0, 2]].tolist() == [[4, 2, 0, 1, 3]] * 2
    assert predictions.ranked[3].tolist() == rows["ranked"][0].tolist()
    (chunk,) = chunks
    np.testing.assert_allclose(chunk[2], frequencies, rtol=1e-3)
    np.testing.assert_array_equal(chunk[1], rows["probabilities"][2])


def test_photographs_of_another_json_are_refused():
    dtype = row_type(6, save_probabilities=False)
    rows = make_rows(dtype, batch_of(1, 3), random_probabilities(3), labelled=False)
    with pytest.raises(UserError, match="image 3 is not in the JSON"):
        submission.arrange(rows, [1, 2], np.ones(6))


def test_without_a_training_list_every_class_is_as_frequent():
    assert submission.class_frequencies([], 4).tolist() == [0.25] * 4
