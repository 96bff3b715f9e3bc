"""The iNaturalist JSON: what is read from it, and each way in which it can be wrong."""

import copy
import json
import random

import pytest

from common.base.files import UserError
from common.data.annotations import (
    annotation_path,
    find_image,
    image_keys,
    label_by,
    read_annotations,
)

TRAIN = {
    "info": {"year": 2017},
    "images": [
        {"id": 11, "width": 800, "height": 600, "file_name": "train_val_images/Aves/Anas/a.jpg"},
        {"id": 12, "width": 600, "height": 800, "file_name": "train_val_images/Aves/Anas/b.jpg"},
        {"id": 40, "file_name": "train_val_images/Plantae/Salix × fragilis é/c d.jpg"},
    ],
    "categories": [
        {"id": 9, "name": "Salix × fragilis é", "supercategory": "Plantae"},
        {"id": 3, "name": "Anas acuta", "supercategory": "Aves"},
    ],
    "annotations": [
        {"id": 1, "image_id": 12, "category_id": 3},
        {"id": 2, "image_id": 40, "category_id": 9},
        {"id": 3, "image_id": 11, "category_id": 3},
    ],
}


def write_json(tmp_path, content, name="train2017.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


def test_labels_are_ranks_of_category_ids_joined_by_image_id(tmp_path):
    annotations = read_annotations(write_json(tmp_path, TRAIN))
    assert [category.id for category in annotations.categories] == [3, 9]
    assert annotations.categories[1].name == "Salix × fragilis é"
    assert annotations.categories[0].supercategory == "Aves"
    assert annotations.labels == {11: 0, 12: 0, 40: 1}
    assert annotations.images[2] == (40, "train_val_images/Plantae/Salix × fragilis é/c d.jpg")


def test_the_order_of_the_annotations_does_not_matter(tmp_path):
    content = copy.deepcopy(TRAIN)
    expected = read_annotations(write_json(tmp_path, content))
    random.Random(0).shuffle(content["annotations"])
    random.Random(0).shuffle(content["categories"])
    assert read_annotations(write_json(tmp_path, content)) == expected


def test_a_test_set_needs_neither_annotations_nor_categories(tmp_path):
    path = write_json(tmp_path, {"images": TRAIN["images"]}, "test2017.json")
    annotations = read_annotations(path)
    assert (annotations.labels, annotations.categories) == ({}, [])
    assert [image_id for image_id, _ in annotations.images] == [11, 12, 40]


def test_a_missing_json_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"train2017.json: not found; .*2017/train_val2017.zip"):
        read_annotations(str(tmp_path / "train2017.json"))
    with pytest.raises(UserError, match=r"test2017.json: not found; .*2017/test2017.zip"):
        read_annotations(str(tmp_path / "test2017.json"))


def test_broken_json_is_named_by_line_and_column(tmp_path):
    (tmp_path / "val2017.json").write_text('{"images": [\n  {"id": 1,}]}')
    with pytest.raises(UserError, match=r"val2017.json: broken JSON at line 2, column 1[12]"):
        read_annotations(str(tmp_path / "val2017.json"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe{",
        b"[]",
        b"null",
        b"[" * 100000,
        b'{"images": 3}',
        b'{"images": [{"id": %s, "file_name": "a.jpg"}]}' % (b"1" * 5000),
    ],
    ids=["UTF-16", "list", "null", "nested", "number", "digits"],
)
def test_what_is_no_annotation_file_is_one_line(tmp_path, content):
    (tmp_path / "val2017.json").write_bytes(content)
    with pytest.raises(UserError, match=r"val2017.json: [^\n]*\Z"):
        read_annotations(str(tmp_path / "val2017.json"))


def without(key, position, name):
    return lambda content: content[key][position].pop(name)


def with_value(key, position, name, value):
    return lambda content: content[key][position].update({name: value})


CONTRADICTIONS = {
    'has no "images"': lambda content: content.pop("images"),
    'has no "categories"': lambda content: content.pop("categories"),
    '"images" is empty': lambda content: content["images"].clear(),
    r'"images"\[1\] has no "file_name"': without("images", 1, "file_name"),
    r'"images"\[0\] has no "id"': without("images", 0, "id"),
    r'"annotations"\[2\] has no "category_id"': without("annotations", 2, "category_id"),
    r'"annotations"\[2\]: its "image_id" is neither a whole number nor plain text': with_value(
        "annotations", 2, "image_id", []
    ),
    r'"images"\[0\]: its "id" is neither': with_value("images", 0, "id", 1.5),
    r'"annotations"\[1\]: its "category_id" is neither': with_value(
        "annotations", 1, "category_id", True
    ),
    "two images have the id 12": with_value("images", 0, "id", 12),
    "two categories have the id 3": with_value("categories", 0, "id", 3),
    "an annotation is of image 99, which is not": with_value("annotations", 0, "image_id", 99),
    "annotated as category 7, which is not": with_value("annotations", 1, "category_id", 7),
    "image 12 has two annotations, of category 3 and of category 9; keep": with_value(
        "annotations", 1, "image_id", 12
    ),
    "some category ids are numbers, others text": with_value("categories", 0, "id", "nine"),
    r'"images"\[1\] is not an object': lambda content: content["images"].__setitem__(1, "b.jpg"),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_a_contradiction_is_named(tmp_path, message):
    content = copy.deepcopy(TRAIN)
    CONTRADICTIONS[message](content)
    with pytest.raises(UserError, match=f"train2017.json: .*{message}"):
        read_annotations(write_json(tmp_path, content))


@pytest.mark.parametrize(
    ("file_name", "message"),
    [
        ("/etc/passwd", "is absolute"),
        ("C:\\a.jpg", "is absolute"),
        ("train/../../a.jpg", "leads out of"),
        ("..\\a.jpg", "leads out of"),
        ("a\tb.jpg", "holds a tab"),
        ("a\nb.jpg", "a newline"),
        ("a.jpg ", "a leading or trailing space"),
        ("a\0.jpg", "cannot carry"),
        ("\ud800.jpg", "cannot carry"),
        ("\x1b[31m.jpg", "cannot carry"),
        ("a\u2028b.jpg", "cannot carry"),
        ("", "is not a name"),
        (3, "is not a name"),
    ],
)
def test_a_file_name_that_a_list_cannot_hold_is_refused(tmp_path, file_name, message):
    path = tmp_path / "train2017.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": file_name}]}))
    with pytest.raises(UserError, match=f"train2017.json: image 1: file_name .*{message}"):
        read_annotations(str(path))


def test_control_characters_are_left_out_of_the_names_of_categories(tmp_path):
    content = copy.deepcopy(TRAIN)
    content["categories"][0].update(name="a\x1b[31m\nb", supercategory="c\u2028")
    category = read_annotations(write_json(tmp_path, content)).categories[1]
    assert (category.name, category.supercategory) == ("a\ufffd[31m\ufffdb", "c\ufffd")


def test_two_dots_within_a_name_are_no_climbing(tmp_path):
    path = write_json(tmp_path, {"images": [{"id": 1, "file_name": "a..b/c...jpg"}]})
    assert read_annotations(path).images == [(1, "a..b/c...jpg")]


def test_test_photographs_are_found_with_and_without_their_folder(tmp_path):
    (tmp_path / "test2017").mkdir()
    (tmp_path / "test2017" / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    for name, place in [
        ("a.jpg", "test2017/a.jpg"),
        ("test2017/a.jpg", "test2017/a.jpg"),
        ("b.jpg", "b.jpg"),
        ("test2017/b.jpg", "b.jpg"),
        ("nowhere.jpg", "nowhere.jpg"),
    ]:
        assert find_image(str(tmp_path), name) == str(tmp_path / place)


def test_later_years_name_their_json_without_the_year(tmp_path):
    assert annotation_path("data", "train", 2018) == "data/train2018.json"
    (tmp_path / "train_mini.json").touch()
    path = annotation_path(str(tmp_path), "train_mini", 2021)
    assert path == str(tmp_path / "train_mini.json")


def test_a_test_set_may_have_an_empty_list_of_annotations(tmp_path):
    path = write_json(tmp_path, {"images": TRAIN["images"], "annotations": []}, "test2017.json")
    assert read_annotations(path).labels == {}


def test_names_of_categories_may_be_of_any_kind(tmp_path):
    content = copy.deepcopy(TRAIN)
    content["categories"][0].update(name=7, supercategory=None)
    content["categories"][1].update(supercategory=["Aves"])
    categories = read_annotations(write_json(tmp_path, content)).categories
    assert categories == [(3, "Anas acuta", "['Aves']"), (9, "7", "")]


# --- COCO's variety ------------------------------------------------------------------------------


def test_several_boxes_of_one_category_are_one_label(tmp_path):
    content = copy.deepcopy(TRAIN)
    expected = read_annotations(write_json(tmp_path, content))
    content["annotations"] += [
        {"id": 4 + n, "image_id": 11, "category_id": 3, "bbox": [n, 0, 9, 9]} for n in range(3)
    ]
    assert read_annotations(write_json(tmp_path, content)) == expected


def change_ids(content, of_image, of_category, of_annotation):
    """Write the ids as another tool would: those that annotations name may differ in form."""
    for image in content["images"]:
        image["id"] = of_image(image["id"])
    for category in content["categories"]:
        category["id"] = of_category(category["id"])
    for annotation in content["annotations"]:
        for key in ("image_id", "category_id"):
            annotation[key] = of_annotation(annotation[key])


@pytest.mark.parametrize(
    "forms", [(float, float, float), (str, str, str), (str, float, int), (int, str, float)]
)
def test_numbers_are_ids_whether_written_as_float_or_text(tmp_path, forms):
    content = copy.deepcopy(TRAIN)
    expected = read_annotations(write_json(tmp_path, content))
    change_ids(content, *forms)
    annotations = read_annotations(write_json(tmp_path, content))
    assert annotations == expected
    assert {type(image_id) for image_id, _ in annotations.images} == {int}
    assert [type(category.id) for category in annotations.categories] == [int, int]


def test_ids_stay_text_where_one_of_them_is_not_a_number(tmp_path):
    """Zeros at the front belong to an id: the CSV must hold them."""
    content = copy.deepcopy(TRAIN)
    change_ids(content, "{:03}".format, "{:04}".format, "{:03}".format)
    for annotation in content["annotations"]:
        annotation["category_id"] = "0" + annotation["category_id"]
    content["images"][0]["id"] = content["annotations"][2]["image_id"] = "1100"
    annotations = read_annotations(write_json(tmp_path, content))
    assert [image_id for image_id, _ in annotations.images] == ["1100", "012", "040"]
    assert [category.id for category in annotations.categories] == ["0003", "0009"]
    assert annotations.labels == {"1100": 0, "012": 0, "040": 1}


def test_the_same_id_in_two_forms_is_an_id_twice(tmp_path):
    content = copy.deepcopy(TRAIN)
    content["images"][0]["id"] = "12"
    with pytest.raises(UserError, match="two images have the id 12"):
        read_annotations(write_json(tmp_path, content))


def test_keys_are_the_ids_or_count_them():
    assert image_keys([7, 0, 3]) == [7, 0, 3]
    assert image_keys(["7f", "0a", "3c"]) == [1, 2, 3]
    assert image_keys([7, -1]) == [1, 2]


def test_backslashes_of_windows_are_slashes_but_for_a_file_of_that_name(tmp_path):
    content = copy.deepcopy(TRAIN)
    content["images"][0]["file_name"] = "train_val_images\\Aves\\a.jpg"
    content["images"][1]["file_name"] = "train_val_images/Aves\\b.jpg"
    content["images"][2]["file_name"] = "c\\d.jpg"
    (tmp_path / "c\\d.jpg").touch()
    annotations = read_annotations(write_json(tmp_path, content))
    assert [name for _, name in annotations.images] == [
        "train_val_images/Aves/a.jpg",
        "train_val_images/Aves/b.jpg",
        "c\\d.jpg",
    ]
    assert annotations.notes == ["backslashes are read as slashes, in 2 file names"]


@pytest.fixture
def val_of_a_part(tmp_path):
    """The path and the annotations of a val set that lists one of the categories of `TRAIN`."""
    content = copy.deepcopy(TRAIN)
    del content["categories"][1], content["annotations"][::2]
    path = write_json(tmp_path, content, "val2017.json")
    return path, read_annotations(path)


def test_a_part_of_the_categories_is_labelled_by_all_of_them(tmp_path, val_of_a_part):
    path, annotations = val_of_a_part
    assert annotations.labels == {40: 0}
    categories = read_annotations(write_json(tmp_path, TRAIN)).categories
    mapped = label_by(path, annotations, categories, "train2017.json")
    assert mapped.labels == {40: 1}
    assert mapped.categories == categories
    assert mapped.notes == ["lists 1 of the 2 categories of train2017.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 8}, r"val2017.json: its category ids differ from those of train.*: 9 \(Salix"),
        ({"name": "Quercus"}, "its category 9 is Salix × fragilis é, and that of train.* Quercus;"),
    ],
)
def test_another_challenge_s_categories_are_not_taken_for_train_s(
    tmp_path, val_of_a_part, change, message
):
    content = copy.deepcopy(TRAIN)
    content["categories"][0].update(change)
    del content["annotations"][1]  # of the category that was changed
    categories = read_annotations(write_json(tmp_path, content)).categories
    with pytest.raises(UserError, match=message):
        label_by(*val_of_a_part, categories, "train2017.json")


@pytest.mark.parametrize("named", [{"name": "Salix × fragilis e\u0301"}, {"name": None}, {}])
def test_a_name_may_be_missing_or_decomposed(tmp_path, val_of_a_part, named):
    content = copy.deepcopy(TRAIN)
    del content["categories"][0]["name"]
    content["categories"][0].update(named)
    categories = read_annotations(write_json(tmp_path, content)).categories
    assert label_by(*val_of_a_part, categories, "train2017.json").labels == {40: 1}


def test_the_same_ids_with_other_names_are_not_taken_for_train_s(tmp_path):
    """As in two exports of one's own, made one after the other."""
    categories = read_annotations(write_json(tmp_path, TRAIN)).categories
    content = copy.deepcopy(TRAIN)
    first, second = content["categories"]
    first["name"], second["name"] = second["name"], first["name"]
    path = write_json(tmp_path, content, "val2017.json")
    with pytest.raises(UserError, match=r"its category 3 is Salix .* that of .* Anas acuta; take"):
        label_by(path, read_annotations(path), categories, "train2017.json")
