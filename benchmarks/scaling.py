"""How the cost grows: with the cores in packing and feeding, with the images in lists and merging.

    python -m benchmarks.scaling                    about ten minutes; 10 GB of disk for the merge
    python -m benchmarks.scaling --parts packing,feeding
    python -m benchmarks.scaling --quick            fewer images and rounds

packing, feeding: images/s of 1, 2, 4, ... workers up to the cores of the machine.
lists: mx_list.py for 10,000, 100,000 and 1,000,000 images in the challenge's shares.
merge: sub.py --merge of five networks, 182,707 images x 5,089 classes in float16.

Adds to benchmarks/results/scaling.json, so that the parts can be run one by one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import feeding, lists, merge_memory, packing
from benchmarks.compare import read_result, take_turns, write_result
from common.files import ROOT, UserError, run_script
from common.image_folder import list_images
from common.recordio import write_list

NETWORKS = 5


def main():
    args = parse_args()
    parts = {"packing": grow_packing, "feeding": grow_feeding, "lists": grow_lists}
    parts["merge"] = measure_merge
    for name in args.parts.split(","):
        if name not in parts:
            raise UserError(f"--parts {name}: must be of {', '.join(parts)}")
        print(f"\n{name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            measured = parts[name](folder, args.quick)
        write_result("scaling", {**read_result("scaling"), name: measured})


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", default="packing,feeding,lists,merge", help="default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    return parser.parse_args()


def worker_counts():
    """Return 1, 2, 4, ... up to the cores of the machine, and these."""
    cores = os.cpu_count()
    return sorted({2**power for power in range(cores.bit_length())} | {cores})


def grow_packing(folder, quick):
    """Return `{workers: [images/s]}` of im2rec.py, its start-up left out."""
    photographs = os.path.join(folder, "photographs")
    os.mkdir(photographs)
    packing.make_photographs(photographs, 100 if quick else 400, 800, 600)
    entries, _ = list_images(photographs, recursive=True)
    write_list(os.path.join(folder, "all.lst"), entries)
    write_list(os.path.join(folder, "one.lst"), entries[:1])
    rates = {str(workers): [] for workers in worker_counts()}
    for number in range(-1, 1 if quick else 5):  # the first one does not count
        for workers, numbers in rates.items():
            start_up, everything = (
                packing.seconds_of("ours", os.path.join(folder, name), photographs, int(workers))[0]
                for name in ("one", "all")
            )
            if number >= 0:
                numbers.append((len(entries) - 1) / (everything - start_up))
    return show_rates(rates)


def grow_feeding(folder, quick):
    """Return `{workers: [images/s]}` of the training preset."""
    rec = feeding.make_records(folder, 96 if quick else 480)
    iterators = {str(n): feeding.ours(rec, "training", n) for n in worker_counts()}
    turns = {workers: feeding.reader(iterator) for workers, iterator in iterators.items()}
    measured = take_turns(turns, 1 if quick else 5)
    for iterator in iterators.values():
        iterator.close()
    return show_rates({workers: numbers["wall"] for workers, numbers in measured.items()})


def show_rates(rates):
    for workers, numbers in rates.items():
        print(
            f"{workers:>3s} workers: {statistics.median(numbers):7.1f} images/s"
            f" ({min(numbers):.1f} to {max(numbers):.1f})"
        )
    return rates


def grow_lists(folder, quick):
    """Return `{images: {"seconds": [...], "peak_bytes": ...}}` of mx_list.py."""
    measured = {}
    for images in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000):
        for number, (name, count) in enumerate(lists.SETS.items()):
            path = os.path.join(folder, f"{name}2017.json")
            share = images * count // sum(lists.SETS.values())
            lists.make_annotations(path, share, number * 1_000_000)
        runs = [run("mx_list.py", "--data-dir", folder) for _ in range(1 if quick else 3)]
        measured[str(images)] = {
            "seconds": sorted(seconds for seconds, _ in runs),
            "peak_bytes": max(peak for _, peak in runs),
        }
        show_run(f"{images} images", **measured[str(images)])
    return measured


def measure_merge(folder, quick):
    """Return the time and the peak memory of averaging five networks."""
    images = 20_000 if quick else 182_707
    paths = [merge_memory.write_file(folder, number, images) for number in range(NETWORKS)]
    num_bytes = sum(os.path.getsize(path) for path in paths)
    print(f"{NETWORKS} files written, {num_bytes / 1e9:.1f} GB", flush=True)
    merge_memory.write_json(folder, images)
    places = ["--data-dir", folder, "--output", os.path.join(folder, "merged.csv")]
    seconds, peak = run("sub.py", "--merge", *paths, *places)
    show_run(f"{NETWORKS} networks, {images} images", [seconds], peak)
    return {
        "networks": NETWORKS,
        "images": images,
        "classes": merge_memory.CLASSES,
        "input_bytes": num_bytes,
        "seconds": [seconds],
        "peak_bytes": peak,
    }


def run(script, *arguments):
    """Run a script of the repository; return (seconds, peak bytes of resident memory)."""
    command = [sys.executable, os.path.join(ROOT, script), *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone, and those it waited for
    seconds = time.perf_counter() - start
    process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    if process.returncode:
        raise UserError(f"{script} failed with status {process.returncode}; its words stand above")
    return seconds, usage.ru_maxrss * 1024


def show_run(title, seconds, peak_bytes):
    times = ", ".join(f"{value:.1f}" for value in seconds)
    print(f"{title}: {times} s, at most {peak_bytes / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    run_script(main)
