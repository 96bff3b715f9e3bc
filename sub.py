"""Step 4: from checkpoints and test photographs to the CSV that Kaggle takes.

    python sub.py 21 0                          # epoch 21 on GPU 0 -> submission_epoch_21.csv
    python sub.py 21,24,27 0,1 --crops 10       # three epochs and ten views averaged, two GPUs
    python sub.py 21 cpu --set val              # top-1 and top-5 error, and a page to look at
    python sub.py 21 cpu --save-probs a.npz     # keep the probabilities, too, ...
    python sub.py --merge a.npz b.npz           # ... and average those of several runs
    python sub.py 21 cpu --export-onnx net.onnx
    python sub.py 21 0 --year 2018              # another challenge: its JSON, and three ids a row

Reads MODEL-PREFIX-symbol.json and MODEL-PREFIX-EPOCH.params; DIR/test2017.json for the ids;
DIR/test.rec, or the photographs themselves where there is none. Writes `id,predicted` with five
category ids a row, best first (other years: as their challenge asked for). A photograph that cannot
be read gets the most frequent categories. With --set val also report-NAME.html and report-NAME.csv
beside the CSV NAME.csv.
"""

import argparse
import contextlib
import functools
import logging
import os
import sys

import numpy as np

from common import checkpoint, submission
from common.annotations import annotation_path, read_annotations
from common.challenge import add_challenge_args, csv_format
from common.devices import contexts
from common.export import export_onnx
from common.files import DATA_DIR, MODEL_DIR, UserError, held, require_target
from common.fit_flags import settle_dtype
from common.help import Parser
from common.image_set import Selection, open_image_set, read_categories, train_labels
from common.network import convert_precision, take_raw_images
from common.predict import Predictor, add_view_args, load_views, settle_view_args
from common.progress import Progress
from common.quantize import load_quantized, spread_images
from common.scores import format_scores, score
from common.script import run_script

MODEL_PREFIX = os.path.join(MODEL_DIR, "iNat-resnet-152")  # as in run.sh


def main():
    args = parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if args.merge:
        merge(args)
    elif args.export_onnx:
        network = checkpoint.load(*args.networks[0])
        export_onnx(args.export_onnx, *network, (3, args.crop_size, args.crop_size))
    else:
        with held(args.output, "predicting for it"):
            predict(args)


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
    add("--output", metavar="FILE", help="the CSV (default: submission_epoch_EPOCH.csv, val_…)")
    add("--save-probs", metavar="FILE.npz", help="also keep the probabilities of all classes")
    add("--merge", nargs="+", metavar="FILE.npz", help="average what --save-probs wrote")
    add("--weights", metavar="W,W,…", help="of the networks or merged files (default: equal)")
    add("--resume", action="store_true", help="go on where the interrupted run stopped")
    add("--export-onnx", metavar="FILE", help="write the network as ONNX, and nothing else")
    add_challenge_args(parser)
    add_view_args(parser)
    args = parser.parse_args()
    if args.merge and args.epoch:
        parser.error("--merge averages files, and takes no EPOCH and GPU")
    if not args.merge and not args.gpu:
        parser.error("EPOCH and GPU are needed, as in: sub.py 21 0")
    settle_args(args)
    return args


def settle_args(args):
    """Fill in what depends on other flags, and complain about what cannot be."""
    prefixes = args.model_prefix or [MODEL_PREFIX]
    epochs = [] if args.merge else numbers("EPOCH", args.epoch, int)
    args.networks = [(prefix, epoch) for prefix in prefixes for epoch in epochs]
    count = len(args.merge or args.networks)
    args.weights = numbers("--weights", args.weights, float) if args.weights else [1.0] * count
    if len(args.weights) != count or not all(1e-30 < weight < 1e30 for weight in args.weights):
        raise UserError(f"--weights: must be {count} positive numbers, one for each network")
    args.csv_format = csv_format(args)
    name = "merged" if args.merge else f"epoch_{args.epoch.replace(',', '_')}"
    args.output = args.output or f"{'submission' if args.set == 'test' else 'val'}_{name}.csv"
    for path in filter(None, (args.output, args.save_probs)):
        require_target(path)
    if args.merge:
        if args.save_probs:
            raise UserError("--save-probs: --merge keeps none; give all the files to one --merge")
        return
    if args.export_onnx and len(args.networks) > 1:
        raise UserError("--export-onnx: takes one network; name one EPOCH and one --model-prefix")
    settle_view_args(args, prefixes)
    args.devices = contexts(args.gpu or "cpu", "GPU")
    settle_dtype(args.dtype, args.devices)


def numbers(flag, text, kind):
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{flag} {text}: must be numbers, as 21 or 21,24,27") from None


def predict(args):
    """Predict every image of the set, with the rows kept on the disk, and finish with them."""
    images = open_image_set(args.data_dir, args.set, args.year)
    categories = read_categories(args.data_dir, args.year)
    category_ids = np.array([category.id for category in categories])
    predictor = Predictor(
        [load_network(args, prefix, epoch) for prefix, epoch in args.networks],
        args.weights,
        args.devices,
        args.batch_size,
        (3, args.crop_size, args.crop_size),
    )
    if predictor.num_classes != len(category_ids):
        raise UserError(
            f"{args.networks[0][0]}: has {predictor.num_classes} classes, and the JSON of"
            f" {args.data_dir} {len(category_ids)} categories; is it the folder of the training?"
        )
    frequencies = submission.class_frequencies(train_labels(args.data_dir), len(category_ids))
    places = args.csv_format.places
    row_type = submission.row_type(len(category_ids), bool(args.save_probs), places)
    settings = fingerprint(args, images)
    together = args.batch_size * len(args.devices)
    with submission.PartialRows(args.output, settings, row_type, args.resume, together) as rows:
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
            submission.write_probabilities(args.save_probs, predictions, category_ids, chunks)
        finish(args, predictions, category_ids, images)
        rows.remove()


def load_network(args, prefix, epoch):
    """Return (symbol, arg_params, aux_params) of a checkpoint in the precision asked for."""
    if args.dtype == "int8":
        calibrate = functools.partial(calibration_images, args)
        return load_quantized(prefix, epoch, args.devices, calibrate)
    symbol, arg_params, aux_params = checkpoint.load(prefix, epoch)
    shape = (3, args.crop_size, args.crop_size)
    return convert_precision(take_raw_images(symbol), args.dtype, shape), arg_params, aux_params


def calibration_images(args):
    return spread_images(open_image_set(args.data_dir, "val", args.year).source, args)


def fingerprint(args, images):
    """Return what the rows depend on: an interrupted run goes on only where it is the same."""
    return {
        "checkpoints": [
            [*network, *file_state(checkpoint.params_path(*network))] for network in args.networks
        ],
        "images": [images.path, len(images.source), *file_state(images.path)],
        **{
            name: getattr(args, name)
            for name in ("weights", "dtype", "crops", "crop_size", "resize")
        },
    }


def file_state(path):
    """Return what tells a file from the one that was made anew under its name."""
    state = os.stat(path)
    return state.st_size, state.st_mtime


def merge(args):
    """Average probability files, check that all images of the test set are in them, and finish."""
    places = args.csv_format.places
    predictions, category_ids = submission.merge(args.merge, args.weights, args.set, places)
    path = annotation_path(args.data_dir, args.set, args.year)
    # Of a validation set only what was packed is predicted; without the JSON nothing is known.
    if args.set == "test" and os.path.exists(path):
        wanted = {image_id for image_id, _ in read_annotations(path).images}
        if wanted != set(predictions.ids.tolist()):
            raise UserError(
                f"{args.merge[0]}: its images are not those of {path}; name the folder of their"
                " JSON: --data-dir"
            )
    images = None
    if args.set == "val":
        with contextlib.suppress(UserError):  # without photographs the report is of numbers
            images = open_image_set(args.data_dir, args.set, args.year)
    finish(args, predictions, category_ids, images)


def finish(args, predictions, category_ids, images=None):
    """Write the CSV, and with --set val the scores."""
    submission.write_submission(args.output, predictions, category_ids, args.csv_format)
    print(f"{args.output}: {len(predictions.ids)} images")
    if args.set == "test":
        return
    from common.report import write_report  # here: matplotlib alone takes half a second

    categories = read_categories(args.data_dir, args.year)
    if [category.id for category in categories] != list(category_ids):
        raise UserError(f"{args.data_dir}: its categories are not those of {args.merge[0]}")
    unknown = len(predictions.ids)
    predictions = predictions.with_truth()
    unknown -= len(predictions.ids)
    if unknown:
        logging.warning("%d images are not scored: their true categories are not known", unknown)
    scores = score(predictions, categories, train_labels(args.data_dir))
    print(format_scores(scores))
    settings = " ".join(["sub.py", *sys.argv[1:]])
    page = write_report(args.output, settings, scores, predictions, categories, images)
    print(f"\n{page}: the same and more, to look at")


if __name__ == "__main__":
    run_script(main)
