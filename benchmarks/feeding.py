"""Ours against MXNet's iterators, PyTorch's DataLoader, DALI and the bare JPEG decoder, at 320 px.

    python -m benchmarks.feeding                    made-up records, the training and the val preset
    python -m benchmarks.feeding --rec data/val.rec --threads 8

All sides read the same photographs (683x512, JPEG 95) on the same number of threads, in turn, from
a file that the page cache holds: on all cores, then on one. PyTorch (in worker processes) and DALI
read them as files, where TORCH_PYTHON=/path/to/python names a Python that has them; of what
requirements/peers.txt names, what is missing is left out. Writes benchmarks/results/feeding.json.
"""

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from benchmarks.compare import compare, make_parser, take_turns, write_result
from benchmarks.made_up import encode, make_photograph, write_records
from benchmarks.sides import close_all, start_sides, start_torch_sides
from common import engines
from common.base.script import run_script
from common.data.flags import add_data_args, add_data_aug_args
from common.data.recordio import RecordFile
from common.engines.mxnet.runtime import mx
from common.training import batches

BATCH_SIZE, SIZE = 48, 320
TORCH_READERS = {
    "PyTorch's `DataLoader`, PIL": "pil",
    "PyTorch's `DataLoader`, OpenCV": "cv2",
    "PyTorch's `DataLoader`, torchvision": "torchvision",
    "PyTorch's `DataLoader`, OpenCV and torchvision": "torchvision-cv2",
}
DALI = "DALI"
IMAGE_ITER, RECORD_ITER = "`mx.img.ImageIter`, which 2017 used", "`mx.io.ImageRecordIter`"
DECODER = "`cv2.imdecode` alone"
MIXED = ("--rand-augment", "2,9", "--mixup", "0.8", "--cutmix", "1")
PEERS = {  # smallest ratio that is asked for in (training, validation)
    IMAGE_ITER: (5.5, 2.5),
    RECORD_ITER: (1.9, 1.7),
    **dict.fromkeys([*TORCH_READERS, DALI], (1.4, 1.4)),
    DECODER: (0.85, 0.85),
}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rec", help="records to read (default: made-up photographs)")
    counts = sorted({1, os.cpu_count()}, reverse=True)
    parser.add_argument("--threads", type=int, nargs="+", default=counts)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.threads, args.rounds = args.threads[:1], 1
    comparisons, versions = [], {}
    with tempfile.TemporaryDirectory() as folder:
        # The start and the end of an epoch cost a twentieth of our time with 480 images. The
        # challenge has one epoch in 579,184 images, so more are read here.
        rec = args.rec or make_records(folder, 96 if args.quick else 960)
        photographs = write_photographs(rec, folder)
        for threads in args.threads:
            for preset in ("training", "validation"):
                comparisons.append(
                    compare_readers(rec, photographs, preset, threads, args.rounds, versions)
                )
        comparisons.append(compare_mixed(rec, args.threads[0], args.rounds))
    write_result("feeding", {"comparisons": comparisons}, args.quick, versions)


def compare_readers(rec, photographs, preset, threads, rounds, versions):
    """Compare all that read with a preset; the versions that they name are added to `versions`."""
    loader = ours(rec, preset, threads)
    others = start_others(photographs, preset, threads)
    sides = {
        "ours": reader(loader),
        IMAGE_ITER: mxnet_reader(image_iter(rec, preset)),
        RECORD_ITER: mxnet_reader(image_record_iter(rec, preset, threads)),
        **others,
        DECODER: bare_decoder(rec, threads),
    }
    speeds = take_turns(sides, rounds)
    loader.close()
    versions.update(close_all(others))
    asked = {peer: least[preset == "validation"] for peer, least in PEERS.items()}
    return compare(f"feeding, {preset}, {count_threads(threads)}", speeds, "ours", asked)


def compare_mixed(rec, threads, rounds):
    """Compare the loader that mixes and augments strongly with the plain one."""
    plain, mixed = "the plain preset", "ours"
    loaders = {
        mixed: ours(rec, "training", threads, MIXED),
        plain: ours(rec, "training", threads),
    }
    sides = {name: reader(loader) for name, loader in loaders.items()}
    speeds = take_turns(sides, rounds)
    for loader in loaders.values():
        loader.close()
    what = f"feeding, RandAugment and mixup, {count_threads(threads)}"
    return compare(what, speeds, mixed, {plain: 0.8})


def count_threads(threads):
    """Return "1 thread" or "2 threads"."""
    return f"{threads} thread{'' if threads == 1 else 's'}"


def make_records(folder, number=480):
    """Write made-up photographs of 683x512 as records; return their name."""
    encoded = (encode(make_photograph(seed)) for seed in range(number))
    return write_records(os.path.join(folder, "made_up"), encoded, [i % 10 for i in range(number)])


def write_photographs(rec, folder):
    """Write the photographs of the records as files; return their folder."""
    photographs = os.path.join(folder, "photographs")
    os.makedirs(photographs)
    records = RecordFile(rec)
    for number in range(len(records)):
        with open(os.path.join(photographs, f"{number:08}.jpg"), "wb") as stream:
            stream.write(records.read(number).image)
    return photographs


def start_others(photographs, preset, threads):
    """Start the sides that are processes: PyTorch's and DALI; print which are left out."""
    flags = ["--folder", photographs, "--preset", preset, "--workers", threads]
    flags += ["--batch-size", BATCH_SIZE, "--size", SIZE]
    wanted = {name: ["feed", *flags, "--reader", kind] for name, kind in TORCH_READERS.items()}
    sides = start_torch_sides(wanted)
    if "TORCH_PYTHON" in os.environ:
        command = [os.environ["TORCH_PYTHON"], "-m", "benchmarks.dali_peer", *flags]
        sides.update(start_sides({DALI: command}))
    return sides


def ours(rec, preset, threads, flags=()):
    """Return the `Loader` that fine-tune.py reads with, training or validation."""
    parser = argparse.ArgumentParser()
    add_data_args(parser)
    add_data_aug_args(parser)
    args = parser.parse_args(
        ["--data-train", rec, "--data-val", rec, "--data-nthreads", str(threads), *flags]
    )
    args.batch_size, args.label_smoothing = BATCH_SIZE, 0.0
    data = batches.open_batches(args, allocate=engines.load().allocate)
    chosen, other = data.train, data.val
    if preset == "validation":
        chosen, other = other, chosen
    other.close()
    return chosen


def image_iter(rec, preset):
    """MXNet's Python iterator, which the 2017 baseline used."""
    if preset == "training":
        augmenters = [
            mx.img.RandomSizedCropAug((SIZE, SIZE), (0.3, 1.0), (3 / 4, 4 / 3), interp=1),
            mx.img.HorizontalFlipAug(0.5),
            mx.img.CastAug(),
            mx.img.ColorJitterAug(0.4, 0.4, 0.4),
            mx.img.LightingAug(
                0.1,
                np.array([55.46, 4.794, 1.148]),
                np.array(
                    [
                        [-0.5675, 0.7192, 0.4009],
                        [-0.5808, -0.0045, -0.8140],
                        [-0.5836, -0.6948, 0.4203],
                    ]
                ),
            ),
        ]
    else:
        augmenters = [mx.img.ResizeAug(360, 1), mx.img.CenterCropAug((SIZE, SIZE), 1)]
    return mx.img.ImageIter(
        BATCH_SIZE,
        (3, SIZE, SIZE),
        path_imgrec=rec,
        path_imgidx=os.path.splitext(rec)[0] + ".idx",
        shuffle=preset == "training",
        aug_list=augmenters,
    )


def image_record_iter(rec, preset, threads):
    """MXNet's C++ iterator."""
    if preset == "training":
        flags = {
            "shuffle": True,
            "rand_mirror": True,
            "random_resized_crop": True,
            "min_random_area": 0.3,
            "max_random_area": 1.0,
            "min_random_aspect_ratio": 3 / 4,
            "max_random_aspect_ratio": 4 / 3,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "pca_noise": 0.1,
        }
    else:
        flags = {"resize": 360}
    return mx.io.ImageRecordIter(
        path_imgrec=rec,
        path_imgidx=os.path.splitext(rec)[0] + ".idx",
        data_shape=(3, SIZE, SIZE),
        batch_size=BATCH_SIZE,
        preprocess_threads=threads,
        **flags,
    )


def reader(loader):
    """Return a function that reads one epoch from its beginning: nothing is decoded in advance."""

    def read():
        loader.set_epoch(loader.epoch + 1)
        return sum(len(batch.labels) - batch.pad for batch in loader)

    return read


def mxnet_reader(iterator):
    """Return the same of an iterator of MXNet."""

    def read():
        iterator.reset()
        number = 0
        for batch in iterator:
            batch.data[0].wait_to_read()
            number += len(batch.label[0]) - batch.pad
        return number

    return read


def bare_decoder(rec, threads):
    """Return a function that decodes every image and does nothing with it."""
    records = RecordFile(rec)
    encoded = [np.frombuffer(records.read(i).image, np.uint8) for i in range(len(records))]
    pool = ThreadPoolExecutor(threads)

    def decode(images):
        for image in images:
            cv2.imdecode(image, cv2.IMREAD_COLOR)

    def read():
        list(pool.map(decode, [encoded[first : first + 4] for first in range(0, len(encoded), 4)]))
        return len(encoded)

    return read


if __name__ == "__main__":
    run_script(main)
