"""The rules of the house: which room uses which, and that one room alone imports MXNet."""

import ast
import glob
import os

import pytest

from common.files import ROOT

SCRIPTS = ["mx_list", "im2rec", "fine-tune", "sub"]
FLOORS = [
    SCRIPTS,
    ["data", "fit", "modelzoo", "predict", "report"],
    ["network", "trainer", "loader", "metrics", "scores"],
    ["recordio", "image", "annotations", "files"],
]


def statements_of(name):
    """The statements of a room of `common/`, or of a script."""
    path = f"{name}.py" if name in SCRIPTS else f"common/{name}.py"
    with open(os.path.join(ROOT, path), encoding="utf-8") as stream:
        return ast.parse(stream.read())


def imports(nodes):
    """The rooms that are imported, and "mxnet" where it is."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "common":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package, _, rest = node.module.partition(".")
            yield rest if package == "common" else package


ROOMS = [os.path.basename(path)[:-3] for path in glob.glob(os.path.join(ROOT, "common", "*.py"))]
# Wherever in a file an import stands; and those that run when the file is imported.
USED = {name: set(imports(ast.walk(statements_of(name)))) for name in ROOMS + SCRIPTS}
AT_IMPORT = {name: set(imports(statements_of(name).body)) for name in ROOMS + SCRIPTS}


def reached_from(name):
    """What a room or script uses, and what that uses, and so on."""
    reached, waiting = set(), [name]
    while waiting:
        new = USED.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    return reached


def test_mxnet_is_imported_by_one_room_and_parts_of_it_only_behind_that_room():
    names = [
        (room, alias.name)
        for room in ROOMS + SCRIPTS
        for node in ast.walk(statements_of(room))
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    assert {room for room, name in names if name.startswith("mxnet")} == {"find_mxnet"}
    for room, used in USED.items():
        assert "mxnet" not in used or room == "find_mxnet" or "find_mxnet" in AT_IMPORT[room]


@pytest.mark.parametrize(
    "name",
    [
        "mx_list",
        "im2rec",
        "loader",
        "image_set",
        "class_table",
        "named_photographs",
        "augmentation",
        "scores",
        *FLOORS[-1],
    ],
)
def test_lists_records_and_images_do_without_mxnet(name):
    assert not reached_from(name) & {"mxnet", "find_mxnet"}


def test_arrows_point_down_the_floors():
    floor_of = {name: number for number, names in enumerate(FLOORS) for name in names}
    upwards = [
        (name, used)
        for name, floor in floor_of.items()
        for used in reached_from(name)
        if floor_of.get(used, floor) < floor
    ]
    assert upwards == []


def test_no_two_rooms_need_each_other():
    rest = {name: used & set(ROOMS) for name, used in AT_IMPORT.items()}
    while True:
        free = {name for name, used in rest.items() if not used & rest.keys()}
        if not free:
            break
        rest = {name: used for name, used in rest.items() if name not in free}
    assert rest == {}
