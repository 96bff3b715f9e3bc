"""An estimate for the whole challenge: one machine with 4 or 8 GPUs, and four machines with 4 each.

    python -m benchmarks.plan --gpu-rate 120 --cores 48 --network 25

The packing and feeding rates of a core are measured (benchmarks/results/scaling.json). The training
rate of a GPU and the bandwidth of the network are assumptions: give your own numbers.
"""

import statistics
from dataclasses import dataclass

from benchmarks.compare import make_parser, markdown, read_result
from common.base.files import UserError
from common.base.script import run_script

TRAIN, VAL, TEST, EPOCHS = 579_184, 95_986, 182_707, 30  # images of the challenge; as run.sh has it
BATCH = 12  # images a GPU and step: run.sh's 48 on 4 GPUs
GRADIENT_BYTES = 4 * 68_563_623  # ResNet-152 with 5,089 classes in float32
FORWARD_TIMES = 3  # a forward pass alone is so many times as fast as training
MACHINES = [(1, 4), (1, 8), (4, 4)]  # (machines, GPUs of each)
GPU_RATES, CORES, NETWORK = (50, 100, 200), 32, 10  # of the table in docs/planning.md


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--gpu-rate", type=float, required=True, help="images/s a GPU trains")
    parser.add_argument("--cores", type=int, default=CORES, help="of each (default: %(default)s)")
    parser.add_argument(
        "--network", type=float, default=NETWORK, help="Gbit/s each way (default: %(default)s)"
    )
    args = parser.parse_args()
    scaling = read_result("scaling", args.quick)
    if not scaling:
        raise UserError("not measured yet; run: python -m benchmarks.scaling")
    print(make_table(scaling, [args.gpu_rate], args.cores, args.network))


@dataclass
class Plan:
    """The challenge on some machines; rates are images/s, times are seconds.

    Attributes:
        rate: what all machines train together.
        slowest: what bounds it: "GPUs", "reading" or "network".
        reading_cores: cores of each machine that reading keeps busy.
        packing, epoch, submission: of one machine, all machines (validation by one), one machine.
    """

    rate: float
    slowest: str
    reading_cores: float
    packing: float
    epoch: float
    submission: float


def make_plan(machines, gpus, gpu_rate, cores, network, packs, feeds):
    """Return the `Plan` for so many machines with so many GPUs and cores each.

    Args:
        network: Gbit/s of a machine, each way.
        packs, feeds: images/s of a core.
    """
    trains, reads = gpus * gpu_rate, cores * feeds
    # Each machine is worker and server: it sends the gradients of the other machines' shares, and
    # the weights of its own share to the others; it receives as much. Nothing of it is hidden here.
    exchanged = 2 * GRADIENT_BYTES * (machines - 1) / machines
    batch = gpus * BATCH
    step = {"GPUs": batch / trains, "reading": batch / reads, "network": 8e-9 * exchanged / network}
    computing = max(step["GPUs"], step["reading"])  # side by side; the network comes after
    rate = machines * batch / (computing + step["network"])
    predicts = min(FORWARD_TIMES * trains, reads)
    return Plan(
        rate,
        max(step, key=step.get),
        rate / machines / feeds,
        (TRAIN + VAL) / (cores * packs),
        TRAIN / rate + VAL / predicts,
        TEST / predicts,
    )


def speed_of_a_core(speeds):
    """Return the images/s of a core when all are busy, of `{workers: [images/s]}`."""
    workers, values = max(speeds.items(), key=lambda item: int(item[0]))
    return statistics.median(values) / int(workers)


def make_table(scaling, gpu_rates, cores, network):
    """Return the plan as a table in Markdown, a row for each rate of a GPU and set of machines."""
    packs, feeds = (speed_of_a_core(scaling[name]) for name in ("packing", "feeding"))
    rows = []
    for gpu_rate in gpu_rates:
        for machines, gpus in MACHINES:
            plan = make_plan(machines, gpus, gpu_rate, cores, network, packs, feeds)
            rows.append(
                [
                    f"{machines} of {gpus} GPUs",
                    f"{gpu_rate:g}",
                    f"{plan.rate:.0f}",
                    plan.slowest,
                    f"{plan.reading_cores:.1f} of {cores}",
                    f"{plan.packing / 60:.1f}",
                    f"{plan.epoch / 60:.0f}",
                    f"{EPOCHS * plan.epoch / 3600:.1f}",
                    f"{plan.submission / 60:.1f}",
                ]
            )
    header = ["machines", "a GPU trains", "all train", "bound by", "cores that read"]
    header += ["packing, min", "epoch, min", f"{EPOCHS} epochs, h", "submission, min"]
    return markdown(header, rows)


# --- The tables of docs/planning.md -------------------------------------------------------------


def plan_table(results, sources):
    """The plan for some rates of a GPU."""
    return make_table(results["scaling"], GPU_RATES, CORES, NETWORK)


def rates_table(results, sources):
    """What was measured, and what it means for the challenge."""
    packs, feeds = (speed_of_a_core(results["scaling"][name]) for name in ("packing", "feeding"))
    images, run = max(results["lists"]["images"].items(), key=lambda item: int(item[0]))
    merge = results["merge"]
    rows = [
        ["lists", f"{statistics.median(run['seconds']):.0f} s for {int(images):,} images", "once"],
        [
            "packing",
            f"{packs:.0f} images/s a core",
            f"{(TRAIN + VAL) / packs / 60:.0f} minutes of one core, once",
        ],
        [
            "feeding",
            f"{feeds:.0f} images/s a core",
            f"a GPU that trains 100 images/s keeps {100 / feeds:.2f} cores busy",
        ],
        [
            "merging",
            f"{statistics.median(merge['seconds']):.0f} s for {merge['networks']} networks,"
            f" {merge['images']:,} images",
            "once for an ensemble",
        ],
    ]
    return markdown(["step", "measured", "for the challenge"], rows)


if __name__ == "__main__":
    run_script(main)
