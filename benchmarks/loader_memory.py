"""The memory of feeding over ten epochs, once its queues are full: it must not grow.

    python -m benchmarks.loader_memory              made-up records, training augmentation, 320 px

Prints the memory of the process after every epoch; writes benchmarks/results/loader_memory.json.
"""

import gc
import os
import tempfile

from benchmarks.compare import make_parser, write_result
from benchmarks.feeding import make_records, ours
from common.base.script import run_script


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--epochs", type=int, default=20, help="the last ten are compared")
    parser.add_argument("--images", type=int, default=240, help="images an epoch")
    args = parser.parse_args()
    if args.quick:
        args.images = 48
    megabytes = []
    with tempfile.TemporaryDirectory() as folder:
        loader = ours(make_records(folder, args.images), "training", args.threads)
        for epoch in range(args.epochs):
            loader.set_epoch(epoch)
            for _ in loader:
                pass
            gc.collect()
            megabytes.append(private_megabytes())
            print(f"epoch {epoch}: {megabytes[-1]:.0f} MB")
        loader.close()
    # Batches of 15 MB come and go: the peak of each five epochs counts.
    growth = max(megabytes[-5:]) - max(megabytes[-10:-5])
    print(f"growth over the last ten epochs: {growth:.1f} MB")
    result = {"images": args.images, "megabytes": megabytes, "growth": growth}
    write_result("loader_memory", result, args.quick)


def private_megabytes():
    """Return the resident memory without pages of mapped files, which the system may drop."""
    with open("/proc/self/status", encoding="utf-8") as stream:
        fields = dict(line.split(":", 1) for line in stream)
    return int(fields["RssAnon"].split()[0]) / 1024


if __name__ == "__main__":
    run_script(main)
