"""How training scales with processes: images/s with 1, 2, 4, ..., and what the exchange costs.

    python -m benchmarks.processes [--layers 50] [--size 224] [--batch-size 16] [--quick]

PyTorch trains a ResNet on one made-up batch; the processes share its images and this machine's
cores. The exchange is one all-reduce of all gradients over loopback, by itself: in training it
overlaps with the backward pass. Writes benchmarks/results/processes.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.compare import describe_range, make_parser, write_result
from benchmarks.scaling import worker_counts
from common.base.files import ROOT, UserError
from common.base.processor import usable_cores
from common.base.script import run_script

CLASSES, LEARNING_RATE = 1000, 0.01


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--layers", type=int, default=50)
    parser.add_argument("--size", type=int, default=224, help="side of the images")
    parser.add_argument("--batch-size", type=int, default=16, help="of all processes together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help="be one of the processes")
    args = parser.parse_args()
    if args.quick:
        args.layers, args.size, args.batch_size, args.rounds = 18, 64, 8, 1
    if args.serve:
        train(args)
    else:
        compare_counts(args)


def compare_counts(args):
    """Measure, print and keep the speed of each number of processes."""
    counts = [count for count in worker_counts() if count <= args.batch_size]
    result = {str(count): run_processes(args, count) for count in counts}
    for count, found in result.items():
        speed, exchange = (describe_range(found[name]) for name in ("speeds", "exchanges"))
        megabytes = found["gradient_bytes"] / 1e6
        print(f"{count} processes: {speed} images/s; {megabytes:.0f} MB exchanged in {exchange} ms")
    write_result("processes", result, args.quick, {"PyTorch": found["version"]})


def run_processes(args, count):
    """Return what the first of `count` processes has measured."""
    settings = {name: getattr(args, name) for name in ("layers", "size", "batch_size", "rounds")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    module = ["-m", "benchmarks.processes", "--serve", *flags]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*torchrun, f"--nproc-per-node={count}", f"--log-dir={folder}", *module],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(max(1, usable_cores() // count))},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
    if done.returncode:
        raise UserError(f"{count} processes: failed with status {done.returncode}; see above")
    return json.loads(done.stdout)


def train(args):
    """Train as one of several processes; the first one prints what it has measured, as JSON."""
    from common import engines
    from common.engines.torch.runtime import torch
    from common.networks import Network, edits, resnet
    from common.training.batches import MadeUpImages
    from common.training.schedule import Schedule

    engine = engines.load("torch")
    processes = int(os.environ["WORLD_SIZE"])
    devices = engine.parse_devices(",".join(f"cpu:{number}" for number in range(processes)))
    workers = engine.Workers("device", devices)
    shape = (3, args.size, args.size)
    schedule = Schedule("step", LEARNING_RATE, 1.0, (), warmup_updates=0, num_updates=0)
    trainer = engine.Trainer(
        Network(edits.take_raw_images(resnet.build_resnet(args.layers, CLASSES)), {}, {}, "fc1"),
        devices,
        engines.TrainerOptions(args.batch_size, shape, schedule),
        workers,
    )
    batch = next(iter(MadeUpImages(args.batch_size, shape, CLASSES, share=workers.share)))
    gradients = torch.zeros(trainer.num_parameters)
    steps = measure(lambda: trainer.step(batch, LEARNING_RATE)(), args.rounds)
    exchanges = measure(lambda: workers.average([gradients]), args.rounds)
    if not workers.rank:
        found = {
            "speeds": [args.batch_size / seconds for seconds in steps],
            "exchanges": [1000 * seconds for seconds in exchanges],
            "gradient_bytes": gradients.nbytes,
            "version": torch.__version__,
        }
        print(json.dumps(found))
    workers.close()


def measure(work, rounds):
    """Return the seconds of each round; each is the median of three calls."""
    work()  # the first one plans the convolutions
    return [statistics.median(timed(work) for _ in range(3)) for _ in range(rounds)]


def timed(work):
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_script(main)
