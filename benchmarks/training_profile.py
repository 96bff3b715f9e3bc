"""Where a training step goes: ResNet-152, 320 pixels, batches of 8, operator by operator.

    python -m benchmarks.training_profile

MXNet's own threads in float32, ours in float32 and ours in bfloat16, each in a process of its own,
are timed by MXNet's profiler with every operator queued separately. It explains the ratios of
`python -m benchmarks.training`. Writes benchmarks/results/training_profile.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.compare import make_parser, write_result
from benchmarks.sides import plain_environment
from benchmarks.training import make_step
from common.base.files import ROOT, UserError
from common.base.script import run_script

STEPS = 5  # the first two are not counted
KINDS = {"mxnet": "MXNet's own threads", "float32": "ours, float32", "bfloat16": "ours, bfloat16"}
GROUPS = {  # what the names of MXNet's operators begin with, forward and backward
    "convolutions": ("Convolution",),
    "BatchNorm": ("BatchNorm",),
    "ReLU": ("Activation",),
    "additions of residuals and gradients": ("elemwise_add", "add_n"),
    "update of the weights": ("multi_sgd", "sgd"),
    "casts": ("amp_cast", "Cast"),
}
REST = "all else"


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--profile", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    layers = 18 if args.quick else 152
    if args.profile:
        print(json.dumps(profile(args.profile, layers)))
        return
    from common.engines.mxnet.devices import supports_bfloat16

    kinds = [kind for kind in KINDS if kind != "bfloat16" or supports_bfloat16()[0]]
    profiles = {KINDS[kind]: start(kind, args.quick) for kind in kinds}
    write_result("training_profile", {"layers": layers, "milliseconds": profiles}, args.quick)
    for name, groups in profiles.items():
        print(f"{name}: {sum(groups.values()):.0f} ms a step")
        for group, milliseconds in groups.items():
            print(f"  {milliseconds:8.1f} ms  {group}")


def start(kind, quick):
    """Profile in a process of its own; return `{group: milliseconds of a step}`."""
    command = [sys.executable, "-m", "benchmarks.training_profile", "--profile", kind]
    done = subprocess.run(
        [*command, *(["--quick"] if quick else [])],
        cwd=ROOT,
        env={**plain_environment(), "MXNET_EXEC_BULK_EXEC_TRAIN": "0"},
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def profile(kind, layers):
    """Return `{group: milliseconds}`, the median over the steps."""
    step = make_step(kind, layers)
    from common.engines.mxnet.runtime import mx

    steps = []
    with tempfile.TemporaryDirectory() as folder:  # the profiler also writes its events to a file
        mx.profiler.set_config(
            profile_symbolic=True,
            profile_imperative=True,
            aggregate_stats=True,
            filename=os.path.join(folder, "profile.json"),
        )
        for number in range(STEPS):
            if number < 2:  # these plan the convolutions
                step()
                continue
            mx.profiler.set_state("run")
            step()
            mx.profiler.set_state("stop")
            steps.append(times(json.loads(mx.profiler.dumps(reset=True, format="json"))))
        mx.profiler.dump(finished=True)
    return {group: statistics.median(one[group] for one in steps) for group in (*GROUPS, REST)}


def times(report):
    """Return `{group: milliseconds}` of the report of MXNet's profiler on one step."""
    groups = dict.fromkeys((*GROUPS, REST), 0.0)
    for operator, measured in report["Time"]["operator"].items():
        name = operator.replace("_backward_", "")
        group = next((g for g, begins in GROUPS.items() if name.startswith(begins)), REST)
        groups[group] += measured["Total"]
    return groups


if __name__ == "__main__":
    run_script(main)
