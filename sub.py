"""Step 4: from checkpoints and test photographs to the CSV that Kaggle accepts.

    python sub.py 21 0                          # epoch 21 on GPU 0 -> submission_epoch_21.csv
    python sub.py 21,24,27 0,1 --crops 10       # three epochs and ten views averaged, two GPUs
    python sub.py 21 cpu --set val              # top-1 and top-5 error, and a page to look at
    python sub.py 21 cpu --save-probs a.npz     # keep the probabilities, ...
    python sub.py --merge a.npz b.npz           # ... and average those of several runs
    python sub.py 21 cpu --export-onnx net.onnx
    python sub.py 21 0 --year 2018              # another challenge: its JSON, and three ids a row
    python sub.py 21 cpu --images photographs   # name photographs that belong to no challenge

Reads MODEL-PREFIX-symbol.json and -EPOCH.params (of timm's networks -timm.json and
-EPOCH.safetensors), and -classes.csv; DIR/test2017.json for the ids;
DIR/test.rec, or the photographs themselves where there is none. Writes `id,predicted` with five
category ids a row, best first (other years: as their challenge asked for). A photograph that cannot
be read gets the most frequent categories. With --set val also report-NAME.html and report-NAME.csv
beside the CSV NAME.csv. With --images predictions.csv (file, names, probabilities) and
report-predictions.html: what cannot be read is left out, and the status is 1.
"""

from common.base.script import be_quiet, run_script, stop_while_importing

stop_while_importing()

import argparse
import contextlib
import logging
import os
import sys

import numpy as np

from common import engines
from common.base.files import DATA_DIR, MODEL_PREFIX, UserError, exclusive_lock, require_target
from common.base.help import Parser, refuse_together
from common.base.progress import Progress
from common.data import class_table
from common.data.annotations import annotation_path, read_annotations
from common.data.challenge import add_challenge_args, csv_format
from common.data.image_set import (
    Selection,
    open_image_set,
    open_records,
    train_labels,
)
from common.engines import add_engine_arg
from common.engines.choice import choose
from common.evaluation import named_photographs, probability_files, submission
from common.evaluation.ensemble import fingerprint, load_predictor
from common.evaluation.report import write_report
from common.evaluation.scores import format_scores, score
from common.evaluation.views import (
    add_view_args,
    complete_view_args,
    first_to_read_again,
    load_views,
)
from common.networks import checkpoint
from common.networks.export import export_onnx
from common.training.history import last_epoch, log_path


def main():
    args = parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if args.quiet:
        be_quiet()
    warn_of_earlier_runs(args.networks)
    status = 0
    if args.merge:
        merge(args)
    elif args.export_onnx:
        export(args)
    else:
        with exclusive_lock(args.output, "predicting for it"):
            status = name_images(args) if args.images else predict(args)
    return status


def parse_args():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("epoch", nargs="?", metavar="EPOCH", help="checkpoint to read; several: 21,24,27")
    add("gpu", nargs="?", metavar="GPU", help="device; several: 0,1; the CPU: cpu or -1")

    add = parser.add_argument_group("Files").add_argument
    add(
        "--data-dir",
        metavar="DIR",
        default=DATA_DIR,
        help="holds the JSON, lists, records and photographs (default: %(default)s)",
    )
    add(
        "--model-prefix",
        action="append",
        metavar="PREFIX",
        help="what the names of the checkpoints begin with; given several times: an ensemble of"
        f" networks, each at every EPOCH (default: {MODEL_PREFIX})",
    )
    add(
        "--set",
        choices=["test", "val"],
        default="test",
        help="val: score instead of submitting (default: %(default)s)",
    )
    add(
        "--data-val",
        metavar="REC",
        help="records to score, with --set val (default: DIR/val.rec)",
    )
    add(
        "--images",
        nargs="+",
        metavar="PATH",
        help="name these photographs, and those in these folders; they belong to no challenge",
    )
    add("--output", metavar="FILE", help="the CSV (default: submission_epoch_EPOCH.csv, val_…)")
    add("--save-probs", metavar="FILE.npz", help="also keep the probabilities of all classes")
    add("--merge", nargs="+", metavar="FILE.npz", help="average what --save-probs wrote")
    add(
        "--weights",
        metavar="W,W,…",
        help="of the networks, or of the merged files; with several epochs, those of each network"
        " follow one another (default: equal)",
    )
    add("--resume", action="store_true", help="go on where the interrupted run stopped")
    add("--export-onnx", metavar="FILE", help="write the network as ONNX, and nothing else")
    add("--quiet", action="store_true", help="print warnings and errors alone, and no bar")
    add_challenge_args(parser)
    add_engine_arg(add_view_args(parser))
    args = parser.parse_args()
    if args.merge and args.epoch:
        parser.error("--merge averages files, and takes no EPOCH and GPU")
    if not args.merge and not args.gpu:
        parser.error("EPOCH and GPU are needed, e.g.: sub.py 21 0")
    complete_args(args)
    return args


def complete_args(args):
    """Fill in what depends on other flags; raise `UserError` for impossible values."""
    if args.images:
        named_photographs.check_flags(args)
    if args.data_val and args.set == "test":
        raise UserError("--data-val: holds records to score; add --set val")
    prefixes = args.model_prefix or [MODEL_PREFIX]
    epochs = [] if args.merge else numbers("EPOCH", args.epoch, int)
    args.networks = [(prefix, epoch) for prefix in prefixes for epoch in epochs]
    count = len(args.merge or args.networks)
    args.weights = numbers("--weights", args.weights, float) if args.weights else [1.0] * count
    if len(args.weights) != count or not all(1e-30 < weight < 1e30 for weight in args.weights):
        raise UserError(f"--weights: must be {count} positive numbers, one for each network")
    args.csv_format = csv_format(args)
    name = "merged" if args.merge else f"epoch_{args.epoch.replace(',', '_')}"
    name = f"{'submission' if args.set == 'test' else 'val'}_{name}.csv"
    args.output = args.output or ("predictions.csv" if args.images else name)
    for path in filter(None, (args.output, args.save_probs)):
        require_target(path)
    for path in filter(None, (args.save_probs, *(args.merge or ()))):
        if os.path.realpath(path) == os.path.realpath(args.output):
            raise UserError(f"--output {args.output}: would replace {path}; choose another name")
    of_prediction = {
        "--resume": args.resume,
        f"--dtype {args.dtype}": args.dtype != "float32",
        f"--crops {args.crops}": args.crops > 1,
    }
    if args.merge:
        refuse_together("--merge", {"--export-onnx": args.export_onnx, **of_prediction})
        if args.save_probs:
            raise UserError("--save-probs: --merge keeps none; give all the files to one --merge")
        return
    if args.export_onnx and len(args.networks) > 1:
        raise UserError("--export-onnx: takes one network; name one EPOCH and one --model-prefix")
    args.model_prefix = prefixes
    complete_view_args(args, prefixes)
    if args.export_onnx:
        others = {"--save-probs": args.save_probs, "--set val": args.set == "val"}
        refuse_together("--export-onnx", {**others, **of_prediction})
        return
    of_timm = any(checkpoint.is_timm(*network) for network in args.networks)
    ways = {"compiled": args.compile, "tf32": args.tf32, "of_timm": of_timm}
    args.engine, args.devices, args.why = choose(
        args.engine, args.gpu or "cpu", args.dtype, "predict", "GPU", **ways
    )


def numbers(flag, text, kind):
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{flag} {text}: must be numbers, e.g. 21 or 21,24,27") from None


def warn_of_earlier_runs(networks):
    """Warn of checkpoints that a later run to the same prefix has left: its classes may differ."""
    for prefix, epoch in networks:
        with contextlib.suppress(UserError):  # predicting needs no log
            last = last_epoch(log_path(prefix))
            path = checkpoint.weights_path(prefix, epoch)
            if last is not None and epoch > last and os.path.exists(path):
                logging.warning("%s: is of an earlier run, as the log ends at epoch %d", path, last)


def predict(args):
    """Predict every image of the set, with the rows kept on the disk, and finish with them."""
    if args.set == "test":
        images = open_images(args)
        classes = class_table.classes_of_networks(args.model_prefix, args, required=True)
    else:  # by whose categories the annotations are labelled
        classes = class_table.classes_of_networks(args.model_prefix, args)
        images = open_images(args, classes)
    args.batch_size = min(args.batch_size, max(1, len(images.source)))
    predictor = load_predictor(args)
    categories = class_table.categories_of_networks(classes, predictor.num_classes, args)
    category_ids = np.array([category.id for category in categories])
    frequencies = submission.class_frequencies(counted_labels(args), len(category_ids))
    places = args.csv_format.places
    row_type = submission.row_type(len(category_ids), bool(args.save_probs), places)
    settings = fingerprint(args, images)
    together = args.batch_size * len(args.devices)
    with submission.PartialRows(args.output, settings, row_type, args.resume, together) as rows:
        if args.resume:
            rows.keep(first_to_read_again(rows.read()["found"], images.source))
        rest = Selection(images.source, range(len(rows), len(images.source)))
        with Progress(len(rest), "predicting") as progress:
            for batch, probabilities in predictor.predict(load_views(rest, args)):
                rows.append(submission.make_rows(row_type, batch, probabilities, args.set == "val"))
                progress.update(len(probabilities))
        wanted = (images.wanted_keys, frequencies, images.wanted_ids)
        predictions, chunks = submission.arrange(rows.read(), *wanted)
        if not predictions.found.all():
            logging.warning(images.describe_unread(predictions.ids[~predictions.found]))
        if args.save_probs:
            names = [category.name for category in categories]
            probability_files.write_probabilities(
                args.save_probs, predictions, category_ids, chunks, names
            )
        finish(args, predictions, categories, images)
        rows.remove()


def open_images(args, classes=None):
    """Return the `ImageSet` that is predicted: of the challenge, or of the records of a flag."""
    if args.data_val:
        class_table.require_numbering(classes, args.data_val)
        return open_records(args.data_val)
    known = classes.categories if classes and classes.have_ids else None
    images = open_image_set(args.data_dir, args.set, args.year, known)
    if not images.is_compared:
        class_table.require_numbering(classes, images.path)
    return images


def counted_labels(args):
    """Return the labels of the training list, which say how frequent a class is."""
    return () if args.data_val else train_labels(args.data_dir)


def name_images(args):
    """Name photographs that belong to no challenge; return the exit status."""
    source = named_photographs.find_photographs(args.images)
    args.batch_size = min(args.batch_size, len(source))
    classes = class_table.classes_of_networks(args.model_prefix, args)
    predictor = load_predictor(args, source)
    categories = class_table.categories_of_networks(classes, predictor.num_classes, args)
    names = [category.name for category in categories]
    views = load_views(source, args)
    named = named_photographs.name_photographs(predictor, views, source, names)
    named_photographs.write_names(args.output, named)
    if len(named.paths) <= named_photographs.SHOWN_ON_TERMINAL:
        print(f"{named_photographs.format_names(named)}\n")
    print(f"{args.output}: {len(named.paths)} photographs, {len(named.unread)} not read")
    page = named_photographs.write_page(args.output, command_line(), named)
    print(f"{page}: the photographs and their names, to look at")
    return 1 if named.unread else 0


def export(args):
    """Write a network as ONNX: MXNet's without an engine, timm's by PyTorch."""
    network, image_shape = checkpoint.load(*args.networks[0]), (3, *args.crop_shape)
    if checkpoint.is_timm(*args.networks[0]):
        engines.load("torch").export_onnx(args.export_onnx, network, image_shape)
    else:
        export_onnx(args.export_onnx, network, image_shape)


def merge(args):
    """Average probability files, check that all images of the test set are in them, and finish."""
    places = args.csv_format.places
    predictions, category_ids = probability_files.merge(args.merge, args.weights, args.set, places)
    path = annotation_path(args.data_dir, args.set, args.year)
    # Of a validation set only what was packed is predicted; without the JSON nothing is known.
    if args.set == "test" and os.path.exists(path):
        wanted = {image_id for image_id, _ in read_annotations(path).images}
        if wanted != set(predictions.ids.tolist()):
            raise UserError(
                f"{args.merge[0]}: its images are not those of {path}; name the folder of their"
                " JSON: --data-dir"
            )
    images, categories = None, class_table.numbered(category_ids)
    if args.set == "val":
        classes = class_table.classes_of_networks(args.model_prefix or [], args)
        names = probability_files.ProbabilityFile(args.merge[0]).names
        categories = class_table.categories_of_ids(classes, category_ids, args.merge[0], names)
        with contextlib.suppress(UserError):  # without photographs the report is of numbers
            found = open_images(args, classes)
            images = found if found.is_of(predictions.ids, predictions.labels) else None
    finish(args, predictions, categories, images)


def finish(args, predictions, categories, images=None):
    """Write the CSV, and with --set val the scores."""
    category_ids = [category.id for category in categories]
    submission.write_submission(args.output, predictions, category_ids, args.csv_format)
    print(f"{args.output}: {len(predictions.ids)} images")
    if args.set == "test":
        return
    unknown = len(predictions.ids)
    predictions = predictions.with_truth()
    unknown -= len(predictions.ids)
    if unknown:
        logging.warning("%d images are not scored: their true categories are not known", unknown)
    scores = score(predictions, categories, counted_labels(args))
    print(format_scores(scores))
    page = write_report(args.output, command_line(), scores, predictions, categories, images)
    print(f"\n{page}: the same and more, to look at")


def command_line():
    return " ".join(["sub.py", *sys.argv[1:]])


if __name__ == "__main__":
    run_script(main)
