"""An estimate for the whole challenge, on 1 to 64 GPUs, with either engine.

    python -m benchmarks.plan --engine torch --gpu-rate 400 --cores 48 --network 25

The rates of a core that packs or feeds are measured (benchmarks/results/scaling.json), and so is
the rate of an H100 that trains with PyTorch (gpu.json). All other rates of GPUs and the bandwidth
of the network are assumptions: give your own numbers.
"""

import statistics
from dataclasses import dataclass

from benchmarks.compare import make_parser, markdown, read_result
from common.base.files import UserError
from common.base.help import check_ranges
from common.base.script import run_script

TRAIN, VAL, TEST, EPOCHS = 579_184, 95_986, 182_707, 30  # images of the challenge; as run.sh has it
GRADIENT_BYTES = 4 * 68_563_623  # ResNet-152 with 5,089 classes in float32
FORWARD_TIMES = 3  # a forward pass alone is so many times as fast as training
CORES = 32  # of each machine, in the table of docs/planning.md


@dataclass
class Engine:
    """What the plan assumes of training with an engine.

    Attributes:
        batch: images a GPU and step.
        overlap: share of a step in which gradients are exchanged while the GPUs compute.
        machines: `(machines, GPUs of each)`, a row of the table each.
        network: Gbit/s of a machine, each way.
    """

    batch: int
    overlap: float
    machines: tuple
    network: float


ENGINES = {
    # run.sh's 48 images on 4 GPUs; the exchange through the servers comes after the backward pass.
    "mxnet": Engine(12, 0.0, ((1, 1), (1, 4), (1, 8), (4, 4)), 10),
    # The backward pass, two thirds of a step, sends the gradients of the layers it is done with.
    "torch": Engine(64, 2 / 3, ((1, 1), (1, 4), (1, 8), (2, 8), (8, 8)), 100),
}
MXNET_RATES = (50, 100, 200)  # images/s of a GPU, assumed


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="mxnet", help="default: %(default)s")
    parser.add_argument("--gpu-rate", type=float, required=True, help="images/s a GPU trains")
    parser.add_argument("--cores", type=int, default=CORES, help="of each (default: %(default)s)")
    parser.add_argument("--network", type=float, help="Gbit/s each way (default: 10; torch: 100)")
    args = parser.parse_args()
    check_ranges(args, {"gpu_rate": (0.001, None), "cores": (1, None), "network": (0.001, None)})
    scaling = read_result("scaling", args.quick)
    if not scaling:
        raise UserError("not measured yet; run: python -m benchmarks.scaling")
    network = args.network or ENGINES[args.engine].network
    print(make_table(scaling, [(args.engine, args.gpu_rate, network)], args.cores))


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


def make_plan(engine, machines, gpus, gpu_rate, cores, network, packs, feeds):
    """Return the `Plan` for so many machines with so many GPUs and cores each.

    Args:
        engine: an `Engine`.
        network: Gbit/s of a machine, each way.
        packs, feeds: images/s of a core.
    """
    trains, reads = gpus * gpu_rate, cores * feeds
    # Each machine sends the gradients of the other machines' shares, and the sums or weights of its
    # own share to the others; it receives as much. The exchange inside a machine is not counted.
    exchanged = 2 * GRADIENT_BYTES * (machines - 1) / machines
    batch = gpus * engine.batch
    step = {"GPUs": batch / trains, "reading": batch / reads, "network": 8e-9 * exchanged / network}
    step["network"] = max(0.0, step["network"] - engine.overlap * step["GPUs"])
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


def make_table(scaling, gpu_rates, cores):
    """Return the plan as a table in Markdown, a row for each rate of a GPU and set of machines.

    Args:
        gpu_rates: `(name of the engine, images/s that a GPU trains, Gbit/s of the network)`.
    """
    packs, feeds = (speed_of_a_core(scaling[name]) for name in ("packing", "feeding"))
    rows = []
    for name, gpu_rate, network in gpu_rates:
        engine = ENGINES[name]
        for machines, gpus in engine.machines:
            plan = make_plan(engine, machines, gpus, gpu_rate, cores, network, packs, feeds)
            rows.append(
                [
                    f"{machines} of {gpus} GPU{'s' if gpus > 1 else ''}",
                    f"{gpu_rate:.0f}, {name}",
                    f"{plan.rate:.0f}",
                    plan.slowest,
                    f"{plan.reading_cores:.1f} of {cores}",
                    f"{plan.packing / 60:.1f}",
                    f"{plan.epoch / 60:.1f}",
                    f"{EPOCHS * plan.epoch / 3600:.1f}",
                    f"{plan.submission / 60:.1f}",
                ]
            )
    header = ["machines", "a GPU trains", "all train", "bound by", "cores that read"]
    header += ["packing, min", "epoch, min", f"{EPOCHS} epochs, h", "submission, min"]
    return markdown(header, rows)


# --- The tables of docs/planning.md -------------------------------------------------------------


def plan_table(results, sources):
    """The plan for some assumed rates of a GPU with MXNet, and the measured one with PyTorch."""
    rates = [("mxnet", rate, ENGINES["mxnet"].network) for rate in MXNET_RATES]
    rates.append(("torch", measured_rate(results["gpu"]), ENGINES["torch"].network))
    return make_table(results["scaling"], rates, CORES)


def measured_rate(gpu):
    """Return the images/s that a GPU trains from records, with the plan's batch of PyTorch.

    Raises:
        UserError: that was not measured.
    """
    ending = f"batches of {ENGINES['torch'].batch}"
    for comparison in gpu["comparisons"]:
        if comparison["what"].endswith(ending):
            return statistics.median(comparison["ours"])
    raise UserError(f"gpu.json: has no row with {ending}; run python -m benchmarks.gpu")


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
            "training, a GPU",
            f"{measured_rate(results['gpu']):.0f} images/s (PyTorch, bfloat16)",
            f"{TRAIN / measured_rate(results['gpu']) / 60:.0f} minutes an epoch",
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
