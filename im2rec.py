"""Step 2: pack photographs into a record file, as MXNet's tools/im2rec.py does, byte for byte.

    python im2rec.py --resize 512 --quality 95 --num-thread 20 data/train data
    python im2rec.py --resize 512 ... --resume data/train data     # go on where a run stopped
    python im2rec.py --verify --decode data/train                  # the result against the list
    python im2rec.py --reindex data/train                          # train.idx from train.rec
    python im2rec.py --list --recursive data/birds photographs     # a list of a folder of folders
    python im2rec.py --list --recursive --classes data/birds.classes.txt data/more others

Reads PREFIX.lst and the images below ROOT. Writes PREFIX.rec and PREFIX.idx when they are complete,
names images that cannot be packed in PREFIX.rec.failed.txt (exit status 1), and keeps
PREFIX.rec.journal for --resume, which packs what failed and is whole now. The bytes differ from
MXNet's only for a WebP with an EXIF orientation: it is turned.

--list writes PREFIX.lst, or e.g. PREFIX_train.lst, and with --recursive the names of the
classes, one a line in the order of the labels: PREFIX.classes.txt. The lists differ from MXNet's in
two things: hidden files and folders (.thumbnails, __MACOSX, @eaDir, Thumbs.db) are passed over, and
links to a folder that they lie in are not entered.
"""

from common.base.script import run_script, start_log, stop_while_importing

stop_while_importing()

import argparse
import glob
import os
import sys

from common.base.files import UserError, exclusive_lock, write_together
from common.base.help import HelpFormatter, Parser, check_ranges, number, refuse_together, whole
from common.data.classes import class_file_of, class_name, format_class_names, read_class_names
from common.data.commands import list_command
from common.data.encoding import MAX_JPEG_SIDE, Settings
from common.data.image_folder import EXTENSIONS, list_images, parse_extensions, split_list
from common.data.integrity import verify_records
from common.data.packing import pack_list
from common.data.recordio import format_list, index_records, write_index

FAILURES_SHOWN = 5


def parse_args():
    """Read the flags: those of MXNet's tool, and a few more."""
    parser = Parser(
        description="Make an image list, or pack the images of a list into a record file.",
        epilog="example: python im2rec.py --resize 512 --num-thread 20 data/train data",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("prefix", help="PREFIX.lst is packed into PREFIX.rec and PREFIX.idx")
    parser.add_argument("root", nargs="?", help="folder that the list's paths are relative to")

    lists = parser.add_argument_group("making a list")
    lists.add_argument("--list", action="store_true", help="list the images below ROOT")
    lists.add_argument("--exts", nargs="+", default=list(EXTENSIONS), help="endings of image files")
    lists.add_argument("--chunks", type=positive, default=1, help="number of lists")
    lists.add_argument("--train-ratio", type=ratio, default=1.0, help="share to train on, 0 to 1")
    lists.add_argument("--test-ratio", type=ratio, default=0.0, help="share to test on, 0 to 1")
    lists.add_argument(
        "--recursive", action="store_true", help="enter subfolders; each folder is a label"
    )
    lists.add_argument(
        "--classes",
        metavar="FILE",
        help="with --recursive: number the folders as this file does",
    )
    lists.add_argument(
        "--no-shuffle", dest="shuffle", action="store_false", help="keep the order of names"
    )

    packing = parser.add_argument_group("packing")
    packing.add_argument("--pass-through", action="store_true", help="pack the files' own bytes")
    packing.add_argument(
        "--resize", type=whole, default=0, help="shorter side in pixels; 0 keeps the size"
    )
    packing.add_argument("--center-crop", action="store_true", help="crop to the central square")
    packing.add_argument(
        "--quality",
        type=whole,
        default=95,
        help="of JPEG, 0 to 100; compression of PNG, 0 to 9, and more than 9 is 9",
    )
    packing.add_argument("--num-thread", type=positive, default=1, help="images at a time")
    packing.add_argument(
        "--color", type=whole, default=1, choices=[-1, 0, 1], help="1 colour, 0 grey, -1 as it is"
    )
    packing.add_argument("--encoding", default=".jpg", choices=[".jpg", ".png"], help="format")
    packing.add_argument("--pack-label", action="store_true", help="pack all labels of a line")
    packing.add_argument("--strict", action="store_true", help="stop at the first image that fails")
    packing.add_argument(
        "--allow-outside",
        action="store_true",
        help="read photographs outside of ROOT, too, where the list's paths lead there",
    )
    packing.add_argument(
        "--resume", action="store_true", help="go on where a run with the same flags stopped"
    )

    checks = parser.add_argument_group("checking a record file")
    checks.add_argument("--verify", action="store_true", help="check PREFIX.rec against PREFIX.lst")
    checks.add_argument("--decode", action="store_true", help="with --verify: decode every image")
    checks.add_argument("--reindex", action="store_true", help="make PREFIX.idx from PREFIX.rec")
    return parser.parse_args()


def positive(text):
    """Parse a whole number above 0."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return value


def ratio(text):
    """Parse a number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to 1")
    return value


def main():
    """Do what the flags ask for; return the exit status."""
    args = parse_args()
    start_log(is_plain=True)
    prefix, ending = os.path.splitext(args.prefix)
    if ending not in (".lst", ".rec", ".idx"):
        prefix = args.prefix
    check_actions(args)
    if args.verify:
        return verify(prefix, args)
    if args.reindex:
        return reindex(prefix)
    if args.root is None:
        raise UserError("ROOT is missing: the folder that holds the images")
    if args.list:
        return make_lists(prefix, args)
    return pack(prefix, args)


def check_actions(args):
    """Raise `UserError` for flags that together would leave one of them without an effect."""
    if args.classes and not (args.list and args.recursive):
        raise UserError("--classes: has a meaning only with --list --recursive")
    if args.decode and not args.verify:
        raise UserError("--decode: has a meaning only with --verify")
    actions = {"--verify": args.verify, "--reindex": args.reindex, "--list": args.list}
    action = next((flag for flag, given in actions.items() if given), None)
    if action:
        del actions[action]
        refuse_together(action, {**actions, "--resume": args.resume, "--strict": args.strict})


def pack(prefix, args):
    """Pack `PREFIX.lst`; print the result."""
    if not os.path.lexists(f"{prefix}.lst"):
        others = ", ".join(sorted(glob.glob(glob.escape(prefix) + "*.lst"))[:3])
        path = f"{prefix}.lst"
        fix = f"name one of {others}" if others else f"make it with: {list_command(path)}"
        raise UserError(f"{path}: not found; {fix}")
    check_ranges(args, {"resize": (0, MAX_JPEG_SIDE), "quality": (0, 100), "num_thread": (1, 1024)})
    settings = Settings(
        resize=args.resize,
        center_crop=args.center_crop,
        quality=args.quality,
        color=args.color,
        encoding=args.encoding,
        pass_through=args.pass_through,
        pack_label=args.pack_label,
    )
    try:
        summary = pack_list(
            f"{prefix}.lst",
            args.root,
            settings,
            args.num_thread,
            args.strict,
            args.resume,
            args.allow_outside,
        )
    except (KeyboardInterrupt, OSError):
        if os.path.exists(f"{prefix}.rec.partial"):
            way_on = "not done; the same command with --resume goes on"
            print(f"{prefix}.rec: {way_on}", file=sys.stderr)
        raise
    for failure in summary.failures[:FAILURES_SHOWN]:
        print(f"not packed: {failure.path}: {failure.reason}", file=sys.stderr)
    if len(summary.failures) > FAILURES_SHOWN:
        print(f"... all of them are named in {prefix}.rec.failed.txt", file=sys.stderr)
    was_complete = "; was complete already; to pack it anew, remove it first"
    print(
        f"{summary.rec_path}: {summary.packed} packed, {len(summary.failures)} failed, "
        f"{summary.num_bytes} bytes{was_complete if summary.was_complete else ''}"
    )
    return 1 if summary.failures else 0


def verify(prefix, args):
    """Print a table of what is wrong with a record file; return the exit status."""
    num_records, faults = verify_records(prefix, args.decode, args.num_thread)
    against = " against its .idx and .lst" if faults else ""
    print(f"{prefix}.rec{against}: {num_records} records, {'some bad' if faults else 'all good'}")
    for fault, keys in faults.items():
        print(f"{len(keys):8}  {fault}: {', '.join(map(str, keys[:FAILURES_SHOWN]))}")
    return 1 if faults else 0


def reindex(prefix):
    """Make the index of a record file anew."""
    with exclusive_lock(f"{prefix}.rec", "writing it"):
        keys, offsets = index_records(f"{prefix}.rec")
        write_index(f"{prefix}.idx", keys, offsets)
    print(f"{prefix}.idx: {len(keys)} records")
    return 0


def make_lists(prefix, args):
    """Write the lists of the images below ROOT, and the names of their classes."""
    if args.train_ratio + args.test_ratio > 1 + 1e-9:
        raise UserError("--train-ratio and --test-ratio: are more than 1 together")
    extensions = parse_extensions(args.exts)
    entries, labels = list_images(args.root, args.recursive, extensions, args.classes, complain)
    if args.chunks > len(entries):
        raise UserError(f"--chunks {args.chunks}: more lists than the {len(entries)} images")
    for folder, label in sorted(labels.items(), key=lambda item: item[1]):
        print(folder, label)
    files = {}
    if args.recursive:
        names = read_class_names(args.classes) if args.classes else map(class_name, labels)
        path = f"{prefix}.classes.txt"
        files[path] = format_class_names(path, list(names))
    parts = split_list(entries, args.shuffle, args.chunks, args.train_ratio, args.test_ratio)
    files.update((f"{prefix}{name}.lst", format_list(part)) for name, part in parts.items())
    write_together(files)
    for name, part in parts.items():
        print(f"{prefix}{name}.lst: {len(part)} images")
        other = class_file_of(f"{prefix}{name}.lst")
        if other and not (args.recursive and other == f"{prefix}.classes.txt"):
            complain(
                f"{other}: would be read as the classes of {prefix}{name}.lst, but is of another"
                " list; choose another PREFIX, or remove the file if it is an old one"
            )
    return 0


def complain(line):
    """Print a line about a possible mistake."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
