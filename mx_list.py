"""Step 1: make the lists that step 2 packs, from the annotations of the challenge.

    python mx_list.py                          # data/{train,val,test}.lst
    python mx_list.py --check                  # ... and check that every photograph is there
    python mx_list.py --val-into-train 0.9     # train on 90 % of val too, as the 2017 winners did
    python mx_list.py --year 2018 --sets train val

Reads DIR/train2017.json, val2017.json and test2017.json. Writes DIR/train.lst, val.lst and
test.lst: lines of INDEX<tab>LABEL<tab>PATH in random order. INDEX is the image id (1, 2, ... where
the ids are text), LABEL the rank of the category id in train (0 for test), PATH lies below DIR.
"""

from common.base.script import run_script, stop_while_importing

stop_while_importing()

import collections
import os
import random
import statistics
import sys

from common.base.files import DATA_DIR, UserError, write_together
from common.base.help import HelpFormatter, Parser, number, whole
from common.base.progress import Progress
from common.data.annotations import annotation_path, image_keys, label_by, read_annotations
from common.data.challenge import folder_of_test
from common.data.recordio import ListEntry, format_list
from common.data.unicode_names import find_form

NAMES_SHOWN = 5


def parse_args():
    """Read the flags."""
    parser = Parser(
        description="Make the lists that im2rec.py packs, from the annotations of the challenge.",
        epilog="example: python mx_list.py --val-into-train 0.9 --check",
        formatter_class=HelpFormatter,
    )
    where = parser.add_argument_group("what is read and written")
    where.add_argument("--data-dir", default=DATA_DIR, help="holds the JSON, gets the lists")
    where.add_argument("--year", type=whole, default=2017, help="year in the names of the JSON")
    where.add_argument(
        "--sets", nargs="+", default=["train", "val", "test"], help="sets to make a list of"
    )
    lists = parser.add_argument_group("the lists")
    lists.add_argument("--seed", type=int, default=0, help="of the random order")
    lists.add_argument(
        "--val-into-train",
        type=number,
        default=0.0,
        metavar="FRACTION",
        help="move this share of val into train.lst, the same share of each category; 0 to below 1",
    )
    lists.add_argument(
        "--skip-unlabelled", action="store_true", help="leave out images without an annotation"
    )
    lists.add_argument(
        "--check", action="store_true", help="name the photographs that are missing or empty"
    )
    return parser.parse_args()


def main():
    """Read all sets, then write all lists."""
    args = parse_args()
    if args.val_into_train:
        check_val_into_train(args)
    entries, reference = {}, None
    for name in args.sets:
        path = annotation_path(args.data_dir, name, args.year)
        annotations = read_annotations(path)
        if annotations.labels or "test" not in name:
            check_labels(args, path, annotations)
            reference = reference or find_reference(args, path, annotations)
            annotations = label_by(path, annotations, *reference)
        for note in annotations.notes:
            print(f"{path}: {note}", file=sys.stderr)
        print_summary(name, annotations)
        entries[name] = list_entries(args, annotations)
    if args.val_into_train:
        move_val_into_train(args, entries)
    write_lists(args, entries)
    if args.check:
        return check_photographs(args.data_dir, entries)
    return 0


def check_val_into_train(args):
    """Raise `UserError` where `--val-into-train` cannot be done."""
    if not 0 <= args.val_into_train < 1:
        raise UserError(f"--val-into-train {args.val_into_train}: must be from 0 to below 1")
    if not {"train", "val"} <= set(args.sets):
        raise UserError("--val-into-train: needs train and val among --sets")


def find_reference(args, path, annotations):
    """Return the categories that labels are positions in, and their JSON: train's if it exists."""
    train = next((name for name in args.sets if name.startswith("train")), "train")
    train_path = annotation_path(args.data_dir, train, args.year)
    if train_path == path or not os.path.lexists(train_path):
        return annotations.categories, path
    return read_annotations(train_path).categories, train_path


def check_labels(args, path, annotations):
    """Raise `UserError` unless each image has a label, or may be left out."""
    labels = annotations.labels
    unlabelled = [name for image_id, name in annotations.images if image_id not in labels]
    if not unlabelled:
        return
    number = counted(len(unlabelled), "image has", "images have")
    if not labels:
        raise UserError(f"{path}: {number} no annotation; only a test set may have none")
    if not args.skip_unlabelled:
        raise UserError(
            f"{path}: {number} no annotation, {unlabelled[0]} is the first; leave such images out"
            " with --skip-unlabelled"
        )
    annotations.notes.append(f"{number} no annotation, left out")


def counted(number, one, many):
    """Return a number and what it counts: `1 image has`, `2 images have`."""
    return f"{number} {one if number == 1 else many}"


def print_summary(name, annotations):
    """Print what a person compares with the challenge's own numbers."""
    line = f"{name}: {len(annotations.images)} images"
    if annotations.categories:
        supers = {category.supercategory for category in annotations.categories}
        line += f", {len(annotations.categories)} categories in {len(supers)} super-categories"
    if annotations.labels:
        counts = collections.Counter(annotations.labels.values())
        sizes = [counts[label] for label in range(len(annotations.categories))]
        line += (
            f"; images a category: least {min(sizes)}, "
            f"median {statistics.median(sizes):g}, most {max(sizes)}"
        )
    print(line)


def list_entries(args, annotations):
    """Return the list of a set in the JSON's order: of a labelled one, the images with a label."""
    ids = [image_id for image_id, _ in annotations.images]
    names = [name for _, name in annotations.images]
    paths = find_paths(args.data_dir, names, folder_of_test(args.year))
    labels = annotations.labels
    return [
        ListEntry(key, labels.get(image_id, 0), path)
        for image_id, key, path in zip(ids, image_keys(ids), paths)
        if image_id in labels or not labels
    ]


def find_paths(data_dir, names, folder):
    """Return the names of photographs with or without `test2017/`, as they are on the disk.

    The first photograph that is found decides for all; where none is found, the names stay as they
    are.
    """
    bare = [name[len(folder) + 1 :] if name.startswith(f"{folder}/") else name for name in names]
    for name in bare[:100]:  # some of them may be missing
        for subfolder in (f"{folder}/", ""):
            if os.path.exists(find_form(os.path.join(data_dir, subfolder + name))):
                return [subfolder + other for other in bare]
    return names


def move_val_into_train(args, entries):
    """Move the share `--val-into-train` of val into train, stratified by category."""
    shuffled = random.Random(args.seed).sample(entries["val"], len(entries["val"]))
    shuffled.sort(key=lambda entry: entry.label)
    # The n-th image in order of category moves where n * FRACTION passes an integer: so each
    # category gives its share up to one image, and so do all together.
    moves = [
        int((n + 1) * args.val_into_train) > int(n * args.val_into_train)
        for n in range(len(shuffled))
    ]
    moved = [entry for entry, move in zip(shuffled, moves) if move]
    entries["val"] = [entry for entry, move in zip(shuffled, moves) if not move]
    entries["train"] = renumber(entries["train"] + moved)
    print(f"moved {len(moved)} images of val into train")


def renumber(listed):
    """Return the entries with unique indices: as they are, or 1, 2, ... where two are the same."""
    if len({entry.index for entry in listed}) == len(listed):
        return listed
    return [entry._replace(index=number) for number, entry in enumerate(listed, 1)]


def write_lists(args, entries):
    """Write all lists together: val of another run may hold images of train."""
    paths = {os.path.join(args.data_dir, f"{name}.lst"): name for name in entries}
    for listed in entries.values():
        random.Random(args.seed).shuffle(listed)
    write_together({path: format_list(entries[name]) for path, name in paths.items()})
    for path, name in paths.items():
        print(f"{path}: {len(entries[name])} images")


def check_photographs(data_dir, entries):
    """Name the files that are missing or empty; return the exit status."""
    faults = collections.defaultdict(list)
    with Progress(sum(map(len, entries.values())), "checking") as progress:
        for listed in entries.values():
            for entry in listed:
                try:
                    if os.path.getsize(find_form(os.path.join(data_dir, entry.path))) == 0:
                        faults["empty"].append(entry.path)
                except OSError:
                    faults["missing"].append(entry.path)
                progress.update()
    for fault, names in sorted(faults.items()):
        number = counted(len(names), "photograph is", "photographs are")
        print(f"{number} {fault}:", file=sys.stderr)
        for name in sorted(names)[:NAMES_SHOWN]:
            print(f"  {name}", file=sys.stderr)
    if not faults:
        print("every photograph is there")
    return 1 if faults else 0


if __name__ == "__main__":
    run_script(main)
