"""Where the time of prediction goes with the PyTorch engine: milliseconds an image, by operators.

    python -m benchmarks.prediction_profile

ResNet-152 and timm's ConvNeXt-T at 320 px, batches of 16: it explains the ratios of
`benchmarks/inference_peers.py`. Run by a Python with requirements/peers.txt. Writes
benchmarks/results/prediction_profile.json.
"""

import statistics

from benchmarks import predict_rate, rates
from benchmarks.compare import make_parser, markdown, write_result
from benchmarks.inference_peers import BATCH_SIZE, CLASSES, NETWORKS, QUICK_NETWORKS, SIZE
from common import engines
from common.base.files import UserError
from common.base.script import run_script

# Parts of PyTorch's names of operators; the first that fits counts.
GROUPS = {
    "convolutions and matrices": ("convolution", "linear", "addmm", "qconv", "aten::mm"),
    "normalisation": ("norm",),
    "activations": ("gelu", "clamp", "relu", "sigmoid", "softmax"),
    "sums and products": ("aten::add", "aten::mul", "aten::sub", "aten::div"),
    "conversions and copies": ("copy", "quantize", "aten::to", "contiguous", "round"),
}
REST = "the rest"


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    found, engine = {}, engines.load("torch")
    for network, title in (QUICK_NETWORKS if args.quick else NETWORKS).items():
        for dtype in ("float32", "bfloat16", "int8"):
            what = f"{title}, {dtype}"
            try:
                found[what] = profile(engine, network, dtype, 1 if args.quick else args.rounds)
            except UserError as error:
                print(f"left out: {what}: {error}", flush=True)
                continue
            total = sum(found[what].values())
            parts = (f"{group} {spent / total:.0%}" for group, spent in found[what].items())
            print(f"{what}: {total:.1f} ms an image: {', '.join(parts)}", flush=True)
    versions = {engine.NAME: engine.versions()["torch"]}
    write_result("prediction_profile", {"milliseconds": found}, args.quick, versions)


def profile(engine, network, dtype, rounds):
    """Return `{group: milliseconds an image}`, the medians over the rounds."""
    from common.engines.torch.runtime import torch

    flags = ["--engine", "torch", "--network", network, "--dtype", dtype]
    flags += ["--num-classes", str(CLASSES), "--image-size", str(SIZE)]
    args = rates.make_parser(__doc__, BATCH_SIZE).parse_args(flags)
    args.views = args.networks = 1
    devices = engine.parse_devices("cpu")
    engine.check(dtype, devices)
    predict = predict_rate.make_predict(args, engine, devices)
    predict(2)
    spent = [group_times(torch, predict) for _ in range(rounds)]
    return {
        group: statistics.median(one[group] for one in spent) / BATCH_SIZE for group in spent[0]
    }


def group_times(torch, predict):
    """Return `{group: milliseconds of one batch}` that operators take themselves."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        predict(1)
    times = dict.fromkeys([*GROUPS, REST], 0.0)
    for event in profiler.key_averages():
        times[group_of(event.key)] += event.self_cpu_time_total / 1000
    return times


def group_of(name):
    """Return the group of an operator."""
    fitting = (group for group, parts in GROUPS.items() if any(part in name for part in parts))
    return next(fitting, REST)


def profile_table(results, sources):
    """A row for each group of operators: its share in each network and precision."""
    profiles = results["prediction_profile"]["milliseconds"]
    totals = {what: sum(groups.values()) for what, groups in profiles.items()}
    rows = [
        [group, *(f"{profiles[what][group] / total:.0%}" for what, total in totals.items())]
        for group in (*GROUPS, REST)
    ]
    rows.append(["all, ms an image", *(f"{total:.1f}" for total in totals.values())])
    return markdown(["operators", *totals], rows)


if __name__ == "__main__":
    run_script(main)
