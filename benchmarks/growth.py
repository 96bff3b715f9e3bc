"""How cost grows: images/s by images, batches, cores, classes, views, networks; memory by records.

    python -m benchmarks.growth                     about ten minutes on two cores
    python -m benchmarks.growth --engine mxnet

ResNet-50 in float32 with random weights, on noise; one setting changes at a time. For records the
memory is measured that the index and the labels of training records take before the first image.
Writes benchmarks/results/growth.json.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.compare import describe_range, make_parser, markdown, write_result
from benchmarks.made_up import encode, make_photograph
from benchmarks.sides import Side, rates_and_close
from common.base.files import ROOT, UserError
from common.base.processor import usable_cores
from common.base.script import run_script
from common.data.recordio import frame_record, pack_record

BASE = {"image-size": 224, "batch-size": 8, "num-classes": 5089, "cores": usable_cores()}
CHANGES = {  # the words of the table: the setting and its values
    "image size, pixels": ("image-size", (160, 224, 320, 448)),
    "images in a batch": ("batch-size", (1, 8, 32)),
    "cores": ("cores", sorted({1, usable_cores()})),
    "classes": ("num-classes", (1000, 5089, 10_000, 100_000)),
    "views of an image": ("views", (1, 4, 10)),
    "networks of an ensemble": ("networks", (1, 3)),
}
WORKS = ("predict", "train")
PREDICTED_ONLY = ("views", "networks")
RECORDS = (10_000, 100_000, 1_000_000)
SECONDS = 3.0  # of a round

# Prints what the index and the labels of records add to the process, in bytes, and the seconds.
READING = """
import sys, time
from benchmarks.loader_memory import private_megabytes
from common.data.loader import RecordSource
before, start = private_megabytes(), time.perf_counter()
source = RecordSource(sys.argv[1])
labels = source.labels()
print((private_megabytes() - before) * 2**20, time.perf_counter() - start, len(labels))
"""


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--engine", default="auto", help="as of fine-tune.py (%(default)s)")
    parser.add_argument("--network", default="resnet-50", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.network, args.rounds = "resnet-18", 1
    speeds, versions = {}, {}
    for words, (setting, values) in CHANGES.items():
        for value, work in itertools.product(values[:2] if args.quick else values, WORKS):
            if work == "train" and setting in PREDICTED_ONLY:
                continue
            found = measure(args, work, {**BASE, setting: value}, versions)
            speeds.setdefault(words, {}).setdefault(str(value), {})[work] = found
            print(f"{work}, {words} {value}: {describe_range(found)} images/s", flush=True)
    records = {}
    for count in RECORDS[:1] if args.quick else RECORDS:
        records[str(count)] = found = read_records(count)
        megabytes = found["bytes"] / 1e6
        print(f"{count:,} records: {megabytes:.1f} MB, {found['seconds']:.2f} s", flush=True)
    result = {"network": args.network, "speeds": speeds, "records": records}
    write_result("growth", result, args.quick, versions)


def measure(args, work, settings, versions):
    """Return the images/s of each round of a process with these settings."""
    flags = ["--engine", args.engine, "--network", args.network, "--serve", "--batches", 1]
    for name, value in settings.items():
        flags += [] if name == "cores" else [f"--{name}", value]
    command = [sys.executable, "-m", f"benchmarks.{work}_rate", *flags]
    cores = f"OMP_NUM_THREADS={settings['cores']}"
    side = Side(f"{work} with {settings}", ["env", cores, *map(str, command)])
    versions.update(side.versions)
    return rates_and_close(side, args.rounds, 0 if args.quick else SECONDS)


def read_records(count):
    """Return what opening so many records takes, `{"bytes": …, "seconds": …}`."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_small_records(os.path.join(folder, "train"), count)
        command = [sys.executable, "-c", READING, path]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        raise UserError(f"{count:,} records: failed with status {done.returncode}; see above")
    size, seconds, _ = map(float, done.stdout.split())
    return {"bytes": size, "seconds": seconds}


def write_small_records(prefix, count):
    """Write records of one tiny image, their index and their list; return the first one's name."""
    image = encode(make_photograph(0, 8, 8))
    offset = 0
    with open(f"{prefix}.rec", "wb") as records, open(f"{prefix}.idx", "w") as index:
        with open(f"{prefix}.lst", "w") as listed:
            for key in range(count):
                index.write(f"{key}\t{offset}\n")
                listed.write(f"{key}\t{key % 5089}\tphotograph-{key}.jpg\n")
                offset += records.write(frame_record(pack_record(key, key % 5089, image)))
    return f"{prefix}.rec"


def growth_table(results, sources):
    """A row for each value of each setting: the speeds, and their ratios to the first one's."""
    rows = []
    for words, values in results["growth"]["speeds"].items():
        first = next(iter(values.values()))
        for value, works in values.items():
            row = [words, f"{int(value):,}"]
            for work in WORKS:
                if work in works:
                    times = statistics.median(works[work]) / statistics.median(first[work])
                    row += [describe_range([statistics.median(works[work])]), f"{times:.2f}"]
                else:
                    row += ["", ""]
            rows.append(row)
            words = ""  # only in the first row
    header = ["what grows", "to", "predicted, images/s", "times the first", "trained, images/s"]
    return markdown([*header, "times the first"], rows)


def records_table(results, sources):
    """A row for each number of records: memory and time before the first image."""
    rows = [
        [f"{int(count):,}", f"{found['bytes'] / 1e6:.1f}", f"{found['seconds']:.2f}"]
        for count, found in results["growth"]["records"].items()
    ]
    return markdown(["records", "index and labels, MB", "seconds"], rows)


if __name__ == "__main__":
    run_script(main)
