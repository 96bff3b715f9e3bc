"""common/data/class_table.py: the classes that a checkpoint carries, from the records to sub.py."""

import argparse
import json

import pytest

from common.base.files import UserError
from common.data.annotations import Category
from common.data.class_table import (
    Classes,
    categories_of_ids,
    categories_of_networks,
    classes_of_networks,
    classes_of_records,
    classes_of_run,
    read_table,
    require_numbering,
    require_same,
    write_table,
    write_tables,
)
from tests.conftest import write_class_names

BIRDS = [
    Category(30, "Parus major", "Aves"),
    Category(40, 'Salix "alba" × fragilis, wild', "Plantae"),
]
FOLDERS = [Category(None, "tit", ""), Category(None, "willow/white", "")]


def write_json(path, categories):
    content = {
        "images": [{"id": 1, "file_name": "x.jpg"}],
        "categories": [category._asdict() for category in categories],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def flags(folder, **others):
    settings = {"data_dir": str(folder), "year": 2017, "images": None, "data_val": None}
    return argparse.Namespace(**{**settings, **others})


@pytest.mark.parametrize("categories", [BIRDS, FOLDERS])
def test_what_is_written_is_read(tmp_path, categories):
    path = str(tmp_path / "run-classes.csv")
    write_table(path, Classes("", categories))
    assert read_table(path) == Classes(path, categories)


def test_the_table_is_four_columns_for_people_and_programs(tmp_path):
    write_table(tmp_path / "run-classes.csv", Classes("", BIRDS))
    assert (tmp_path / "run-classes.csv").read_text(encoding="utf-8") == (
        "label,category_id,name,supercategory\n"
        "0,30,Parus major,Aves\n"
        '1,40,"Salix ""alba"" × fragilis, wild",Plantae\n'
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"label,category_id,name,supercategory\n",
        b"a,b\n0,1\n",
        b"label,category_id,name,supercategory\n1,30,tit,\n",  # does not begin at 0
        b"label,category_id,name,supercategory\n0,30,tit\n",
        b"label,category_id,name,supercategory\n0,30,\xff,\n",
        b"label,category_id,name,supercategory\n0,30,\x1b[2J,\n",
        b'label,category_id,name,supercategory\n0,30,"tit,\n',
        b"label,category_id,name,supercategory\n0,30,tit,\n1,30,oak,\n",
        b"label,category_id,name,supercategory\n0,30,tit,\n1,,oak,\n",
    ],
)
def test_a_damaged_table_is_named(tmp_path, content):
    (tmp_path / "run-classes.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"run-classes\.csv: not the classes of a network"):
        read_table(str(tmp_path / "run-classes.csv"))


# --- Where training takes them from --------------------------------------------------------------


def test_the_json_with_as_many_categories_names_the_classes(tmp_path):
    write_json(tmp_path / "train2017.json", [*BIRDS, Category(50, "one more", "")])
    write_json(tmp_path / "val2018.json", BIRDS)
    found = classes_of_records(str(tmp_path), "train.rec", 2)
    assert found == Classes(str(tmp_path / "val2018.json"), BIRDS)


def test_else_the_class_file_else_the_folders_of_the_list(tmp_path):
    write_json(tmp_path / "train2017.json", BIRDS[:1])
    lines = ["1\t0.0\tphotos/tit/x.jpg\n", "2\t1.0\tphotos/willow/white/y.jpg\n"]
    (tmp_path / "train.lst").write_text("".join(lines))
    rec = str(tmp_path / "train.rec")
    assert classes_of_records(str(tmp_path), rec, 2).categories == FOLDERS
    write_class_names(str(tmp_path / "train.classes.txt"), ["great tit", "willow", "no photograph"])
    names = [category.name for category in classes_of_records(str(tmp_path), rec, 2).categories]
    assert names == ["great tit", "willow"]


def test_nothing_is_known_of_records_alone(tmp_path):
    assert classes_of_records(str(tmp_path), str(tmp_path / "train.rec"), 2).categories == []


def test_a_class_file_counts_more_than_a_json_of_other_names(tmp_path, caplog):
    write_json(tmp_path / "train2017.json", BIRDS)
    rec, class_file = str(tmp_path / "mine_train.rec"), str(tmp_path / "mine.classes.txt")
    write_class_names(class_file, ["Aves/Parus major", "40"])  # by name, and by category id
    assert classes_of_records(str(tmp_path), rec, 2).categories == BIRDS
    write_class_names(class_file, ["ant", "bee"])
    found = classes_of_records(str(tmp_path), rec, 2)
    assert [category.name for category in found.categories] == ["ant", "bee"]
    assert "its class 0 is ant, and Parus major (category 30) in" in caplog.text


def test_a_damaged_json_does_not_stop_a_training(tmp_path, caplog):
    (tmp_path / "train2017.json").write_text("{")
    assert classes_of_records(str(tmp_path), "train.rec", 2).categories == []
    assert "train2017.json: broken JSON" in caplog.text


# --- Beside the checkpoints ----------------------------------------------------------------------


def test_a_new_run_replaces_the_table_and_a_resumed_one_keeps_it(tmp_path):
    prefix = str(tmp_path / "run")
    write_tables([prefix, f"{prefix}-ema"], Classes("", BIRDS), begin_epoch=0)
    assert read_table(f"{prefix}-ema-classes.csv").categories == BIRDS
    write_tables([prefix], Classes(""), begin_epoch=3)
    write_tables([prefix], Classes("", FOLDERS), begin_epoch=3)
    assert read_table(f"{prefix}-classes.csv").categories == BIRDS
    write_tables([prefix], Classes("", FOLDERS), begin_epoch=0)
    assert read_table(f"{prefix}-classes.csv").categories == FOLDERS
    write_tables([prefix], Classes(""), begin_epoch=0)  # what is not known is not written
    assert not (tmp_path / "run-classes.csv").exists()


def test_ids_are_numbers_or_text_as_in_the_json(tmp_path):
    categories = [Category(7, "ant", ""), Category("007", "bee", ""), Category("a7", "wasp", "")]
    prefix = str(tmp_path / "run")
    write_tables([prefix], Classes("", categories), begin_epoch=0)
    assert read_table(f"{prefix}-classes.csv").categories == categories


def test_a_run_that_goes_on_with_other_classes_is_refused(tmp_path):
    write_class_names(str(tmp_path / "train.classes.txt"), ["tit", "willow"])
    prefix = str(tmp_path / "run")
    args = argparse.Namespace(
        benchmark=0, data_train=None, data_dir=str(tmp_path), model_prefix=prefix
    )
    write_tables([prefix], classes_of_run(args, 2, 0), 0)
    classes_of_run(args, 2, 1)
    write_class_names(str(tmp_path / "train.classes.txt"), ["tit", "oak"])
    fault = r"train\.classes\.txt: its class 1 is oak, and willow in .*run-classes\.csv; train with"
    with pytest.raises(UserError, match=fault):
        classes_of_run(args, 2, 1)
    assert classes_of_run(args, 2, 0).categories[1].name == "oak"  # a new run may


@pytest.mark.parametrize(
    "other",
    [
        [Category(30, "renamed since", ""), BIRDS[1]],  # ids decide
        [Category(None, "Aves/Parus major", ""), Category(None, "Plantae/40", "")],
    ],
)
def test_ids_decide_and_folders_are_named_by_name_or_id(other):
    require_same(Classes("a", BIRDS), Classes("b", other), "")
    require_same(Classes("a", other), Classes("b", BIRDS), "")
    with pytest.raises(UserError, match=r"^b: .* in a; fix"):
        require_same(Classes("a", BIRDS[::-1]), Classes("b", other), "fix")


# --- What sub.py makes of them -------------------------------------------------------------------


def test_networks_are_averaged_only_with_the_same_classes(tmp_path):
    prefixes = [str(tmp_path / name) for name in ("a", "b", "old")]
    write_tables(prefixes[:1], Classes("", [BIRDS[0]._replace(id=None)]), 0)
    write_tables(prefixes[1:2], Classes("", BIRDS[:1]), 0)
    assert classes_of_networks(prefixes, flags(tmp_path)).categories == BIRDS[:1]
    write_tables(prefixes[1:2], Classes("", BIRDS[1:]), 0)
    with pytest.raises(UserError, match=r"b-classes\.csv: its class 0 is Salix .* can be averaged"):
        classes_of_networks(prefixes, flags(tmp_path))


def test_a_json_of_other_categories_is_refused_unless_the_photographs_are_not_its(tmp_path):
    prefix = str(tmp_path / "run")
    write_tables([prefix], Classes("", BIRDS), 0)
    assert classes_of_networks([prefix], flags(tmp_path)).categories == BIRDS
    write_json(tmp_path / "train2017.json", [BIRDS[0], BIRDS[1]._replace(id=41)])
    with pytest.raises(UserError, match=r"train2017\.json: its class 1 is Salix .* \(category 41"):
        classes_of_networks([prefix], flags(tmp_path))
    for own in ({"images": ["x"]}, {"data_val": "x.rec"}):
        assert classes_of_networks([prefix], flags(tmp_path, **own)).categories == BIRDS


def test_without_the_training_json_another_one_may_name_fewer(tmp_path):
    prefix = str(tmp_path / "run")
    write_tables([prefix], Classes("", BIRDS), 0)
    write_json(tmp_path / "test2017.json", BIRDS[1:])
    assert classes_of_networks([prefix], flags(tmp_path)).categories == BIRDS
    write_json(tmp_path / "test2017.json", [Category(99, "another", "")])
    with pytest.raises(UserError, match=r"test2017\.json: another \(category 99\) is not am"):
        classes_of_networks([prefix], flags(tmp_path))


def test_what_nothing_names_is_required_or_numbered(tmp_path, caplog):
    args = flags(tmp_path, model_prefix=[str(tmp_path / "old")])
    with pytest.raises(UserError, match=r"train2017\.json: not found"):
        classes_of_networks(args.model_prefix, args, required=True)
    classes = classes_of_networks(args.model_prefix, args)
    assert categories_of_networks(classes, 2, args) == [Category(0, "0", ""), Category(1, "1", "")]
    assert "old-classes.csv: not found; the classes are named by number" in caplog.text


def test_a_table_of_another_number_than_the_network_s_is_refused(tmp_path):
    args = flags(tmp_path, model_prefix=["net"])
    with pytest.raises(UserError, match="net: has 3 classes, and net-classes.csv 2; is --data"):  # noqa: RUF043
        categories_of_networks(Classes("net-classes.csv", BIRDS), 3, args)
    assert [c.id for c in categories_of_networks(Classes("", FOLDERS), 2, args)] == [0, 1]


def test_a_probability_file_is_named_by_classes_of_its_ids(caplog):
    assert categories_of_ids(Classes("", BIRDS), [30, 40], "a.npz") == BIRDS
    with pytest.raises(UserError, match=r"^a\.npz: its categories are not those of net"):
        categories_of_ids(Classes("net", BIRDS), [30, 41], "a.npz")
    assert categories_of_ids(Classes(""), [30], "a.npz") == [Category(30, "30", "")]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["tit", "willow"], None),
        (["willow", "tit"], "willow has the label 0, which tit has in run-classes.csv"),
        (["tit", "willow", "oak"], "oak has the label 2, and run-classes.csv has 2 classes"),
    ],
)
def test_records_are_scored_by_a_network_of_the_same_numbering(tmp_path, names, fault):
    write_class_names(str(tmp_path / "val.classes.txt"), names)
    known = Classes("run-classes.csv", [Category(None, name, "") for name in ("tit", "willow")])
    rec = str(tmp_path / "val.rec")
    if fault is None:
        require_numbering(known, rec)
    else:
        with pytest.raises(UserError, match=rf"val\.classes\.txt: {fault}; number the folders"):
            require_numbering(known, rec)


def write_list(path, folders):
    path.write_text("".join(f"{n}\t{n}\t{folder}/x.jpg\n" for n, folder in enumerate(folders)))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["30", "40"], None),
        (["00030_Animalia_Parus_major", "00040_Plantae_Salix"], None),  # as in 2021
        (["40", "30"], "40 has the label 0, which Parus major (category 30) has"),
        (["a/Parus major", "b/30"], "b/30 has the label 1, which Salix"),
        (["great tit", "willow"], "names none of the classes of run-classes.csv"),
    ],
)
def test_folders_are_compared_with_categories_where_they_name_any(tmp_path, caplog, folders, said):
    write_list(tmp_path / "val.lst", folders)
    try:
        require_numbering(Classes("run-classes.csv", BIRDS), str(tmp_path / "val.rec"))
    except UserError as error:
        assert said in str(error)
    else:
        assert caplog.text == "" if said is None else said in caplog.text


def test_folders_agree_whatever_they_lie_in_and_in_both_unicode_forms(tmp_path):
    known = Classes("c.csv", [Category(None, name, "") for name in ("s/tit", "willow/Tr\u00edpos")])
    write_list(tmp_path / "val.lst", ["all/s/tit", "all/willow/Tri\u0301pos"])
    require_numbering(known, str(tmp_path / "val.rec"))


def test_a_csv_of_labels_is_reported(tmp_path, caplog):
    prefix = str(tmp_path / "run")
    write_table(f"{prefix}-classes.csv", Classes("", FOLDERS))
    classes_of_networks([prefix], flags(tmp_path), required=True)
    assert "run-classes.csv: has no category ids, and no JSON of" in caplog.text
