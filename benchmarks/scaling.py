"""How packing and feeding scale: images/s with 1, 2, 4, ... workers, up to all cores.

    python -m benchmarks.scaling

The work is that of benchmarks/packing.py and of the training preset of benchmarks/feeding.py; the
numbers of workers take turns. Writes benchmarks/results/scaling.json.
"""

import os
import tempfile

from benchmarks import feeding, packing
from benchmarks.compare import describe_range, make_parser, take_turns, write_result
from common.base.script import run_script


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rounds = 1 if args.quick else args.rounds
    result = {}
    for name, grow in (("packing", grow_packing), ("feeding", grow_feeding)):
        with tempfile.TemporaryDirectory() as folder:
            result[name] = grow(folder, rounds, args.quick)
        for workers, speeds in result[name].items():
            print(f"{name}, {workers} workers: {describe_range(speeds)} images/s", flush=True)
    write_result("scaling", result, args.quick)


def worker_counts():
    """Return 1, 2, 4, ... and the number of cores of the machine."""
    cores = os.cpu_count()
    return sorted({2**power for power in range(cores.bit_length())} | {cores})


def num_images(quick):
    """Return how many images are enough for all the cores to be busy for a second or two."""
    return 100 if quick else 200 * max(2, os.cpu_count())


def grow_packing(folder, rounds, quick):
    """Return `{workers: [images/s]}` of im2rec.py, its start-up left out."""
    photographs = os.path.join(folder, "photographs")
    os.mkdir(photographs)
    packing.make_photographs(photographs, num_images(quick), 800, 600)
    packing.write_lists(folder, photographs)
    speeds = {workers: [] for workers in worker_counts()}
    for number in range(-1, rounds):  # the first one does not count
        for workers, numbers in speeds.items():
            speed = packing.images_a_second("ours", folder, photographs, workers)
            if number >= 0:
                numbers.append(speed)
    return speeds


def grow_feeding(folder, rounds, quick):
    """Return `{workers: [images/s]}` of the training preset."""
    rec = feeding.make_records(folder, num_images(quick))
    loaders = {workers: feeding.ours(rec, "training", workers) for workers in worker_counts()}
    sides = {workers: feeding.reader(loader) for workers, loader in loaders.items()}
    speeds = take_turns(sides, rounds)
    for loader in loaders.values():
        loader.close()
    return speeds


if __name__ == "__main__":
    run_script(main)
