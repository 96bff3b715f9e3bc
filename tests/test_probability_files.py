"""Probability files: written, damaged, and averaged."""

import numpy as np
import pytest

from common.base.files import UserError
from common.evaluation import probability_files
from tests.test_submission import CATEGORY_IDS, predictions_of, random_probabilities


def save(path, probabilities, **changes):
    predictions = predictions_of(probabilities, **changes)
    names = [f"n{each}" for each in CATEGORY_IDS]
    probability_files.write_probabilities(path, predictions, CATEGORY_IDS, [probabilities], names)
    return str(path)


def test_numpy_reads_a_probability_file(tmp_path):
    probabilities = random_probabilities(5)
    with np.load(save(tmp_path / "a.npz", probabilities, first_id=7)) as arrays:
        assert arrays["ids"].tolist() == [7, 8, 9, 10, 11]
        assert arrays["classes"].tolist() == CATEGORY_IDS
        assert arrays["probabilities"].dtype == np.float16
        np.testing.assert_allclose(arrays["probabilities"], probabilities, rtol=1e-3)


def test_merging_is_the_weighted_average_whatever_the_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(probability_files, "CHUNK", 3)
    a, b = random_probabilities(10, seed=1), random_probabilities(10, seed=2)
    paths = [save(tmp_path / "a.npz", a), save(tmp_path / "b.npz", b)]
    predictions, category_ids = probability_files.merge(paths, [3, 1], "test")
    mean = 0.75 * a + 0.25 * b
    assert predictions.ranked[:, 0].tolist() == mean.argmax(axis=1).tolist()
    np.testing.assert_allclose(predictions.probabilities[:, 0], mean.max(axis=1), rtol=2e-3)
    assert category_ids.tolist() == CATEGORY_IDS


def save_named(path, probabilities, ids):
    predictions = predictions_of(probabilities)
    predictions.ids = np.array(ids)
    probability_files.write_probabilities(path, predictions, CATEGORY_IDS, [probabilities])
    return str(path)


def test_ids_are_kept_as_numbers_or_as_text_without_a_pickle(tmp_path):
    probabilities = random_probabilities(3)
    save(tmp_path / "numbers.npz", probabilities)
    text = save_named(tmp_path / "text.npz", probabilities, ["4f-uuid", "é", ""])
    with np.load(tmp_path / "numbers.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].dtype == np.int64 and arrays["classes"].dtype == np.int64
    with np.load(text, allow_pickle=False) as arrays:
        assert arrays["ids"].dtype == "<U7"
    predictions, _ = probability_files.merge([text, text], [1, 2], "test")
    assert predictions.ids.tolist() == ["4f-uuid", "é", ""]


@pytest.mark.filterwarnings("error")
def test_numbers_and_text_are_different_images(tmp_path):
    numbers = save(tmp_path / "a.npz", random_probabilities(3))
    text = save_named(tmp_path / "b.npz", random_probabilities(3), ["1", "2", "3"])
    with pytest.raises(UserError, match=r"b\.npz: its ids differ from those of .*a\.npz"):
        probability_files.merge([numbers, text], [1, 1], "test")


def test_files_of_other_images_are_not_merged(tmp_path):
    a = save(tmp_path / "a.npz", random_probabilities(3))
    b = save(tmp_path / "b.npz", random_probabilities(3), first_id=2)
    with pytest.raises(UserError, match=r"b\.npz: its ids differ from those of .*a\.npz"):
        probability_files.merge([a, b], [1, 1], "test")
    with pytest.raises(UserError, match="is of the test set"):
        probability_files.merge([a], [1], "val")


def test_files_of_two_validation_sets_are_not_merged(tmp_path):
    """Lists of folders number their images from 0: the ids of two sets are the same."""
    paths = []
    for name, labels in ("a", [0, 1, 2]), ("b", [0, -1, 2]), ("c", [0, 1, 1]):
        predictions = predictions_of(random_probabilities(3))
        predictions.labels = np.array(labels)
        paths.append(str(tmp_path / f"{name}.npz"))
        probability_files.write_probabilities(paths[-1], predictions, CATEGORY_IDS, [np.eye(3, 6)])
    probability_files.merge(paths[:2], [1, 1], "val")
    with pytest.raises(
        UserError, match=r"c\.npz: image 3 has the label 1, and 2 in .*a\.npz; merge"
    ):
        probability_files.merge([paths[0], paths[2]], [1, 1], "val")


def test_files_of_folders_that_were_numbered_otherwise_are_not_merged(tmp_path):
    probabilities, paths = random_probabilities(3, num_classes=2), []
    for name, names in (
        ("a.npz", ["bee", "ant"]),
        ("b.npz", ["ant", "bee"]),
        ("numbers.npz", ["0", "1"]),  # without a class file
        ("older.npz", None),
    ):
        paths.append(str(tmp_path / name))
        predictions = predictions_of(probabilities)
        probability_files.write_probabilities(
            paths[-1], predictions, [0, 1], [probabilities], names
        )
    a, b, numbers, older = paths
    probability_files.merge([a, a, numbers, older], [1] * 4, "test")
    with pytest.raises(UserError, match=r"b\.npz: its class 0 is ant, and bee in .*a\.npz; merge"):
        probability_files.merge([a, b], [1, 1], "test")


@pytest.mark.parametrize("damage", ["inverted", "left out"])
def test_every_byte_of_a_probability_file_may_be_damaged(tmp_path, damage):
    """zipfile has many words for it: OSError, NotImplementedError, RuntimeError."""
    path = tmp_path / "a.npz"
    save(path, random_probabilities(2))
    whole = path.read_bytes()
    for at, byte in enumerate(whole):
        changed = bytes([byte ^ 255]) if damage == "inverted" else b""
        path.write_bytes(whole[:at] + changed + whole[at + 1 :])
        try:
            probability_files.merge([str(path)], [1], "test")
        except UserError as error:
            assert "a.npz: " in str(error)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_probability_file_is_named(tmp_path, damage):
    path = tmp_path / "a.npz"
    save(path, random_probabilities(100))
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    damaged = {"cut": data[:middle], "flipped": flipped, "empty": b"", "text": b"a,b\n"}
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"a\.npz: not a whole probability file"):
        probability_files.merge([str(path)], [1], "test")
