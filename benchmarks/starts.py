"""What it costs to start: seconds of a core for a script's help, an engine's import, a dry run.

    python -m benchmarks.starts
    python -m benchmarks.starts OLDER_CHECKOUT      beside another revision, in turns, where it has
                                                    the command

All processes of a command count. A dry run reads records of 16 photographs and a ResNet-18. Writes
benchmarks/results/starts.json.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from types import SimpleNamespace

from benchmarks import rates
from benchmarks.compare import make_parser, markdown, write_result
from benchmarks.made_up import encode, make_photograph, write_records
from common import engines
from common.base.files import ROOT, UserError
from common.base.script import run_script
from common.networks import checkpoint

HELP = ("mx_list.py", "im2rec.py", "fine-tune.py", "sub.py")
TITLES = {"mxnet": "MXNet", "torch": "PyTorch"}
SIDE, CLASSES, BATCH_SIZE = 64, 4, 8


def main():
    parser = make_parser(__doc__)
    parser.add_argument("older", nargs="?", metavar="OLDER_CHECKOUT")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    checkouts = {"this": ROOT, **({"older": args.older} if args.older else {})}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = commands_in(folder)
        for what, command in commands.items():
            able = {name: c for name, c in checkouts.items() if c == ROOT or runs(command, c)}
            measured = {name: [] for name in able}
            for number in range(-1, 1 if args.quick else args.rounds):
                for name, checkout in able.items():
                    spent = seconds_of(command, checkout)
                    measured[name] += [spent] if number >= 0 else []
            found[what] = measured
            medians = (f"{name} {statistics.median(all_):.2f} s" for name, all_ in measured.items())
            print(f"{what}: {', '.join(medians)}", flush=True)
    result = {"seconds": found, "older": revision(args.older) if args.older else None}
    versions = {TITLES[n]: engines.load(n).versions()[n] for n in engines.installed()}
    write_result("starts", result, args.quick, versions)


def commands_in(folder):
    """Return `{what: command}`; makes the files that the dry runs read."""
    photographs = [encode(make_photograph(seed, SIDE, SIDE)) for seed in range(2 * BATCH_SIZE)]
    labels = [number % CLASSES for number in range(len(photographs))]
    rec = write_records(os.path.join(folder, "train"), photographs, labels)
    network = SimpleNamespace(network="resnet-18", num_classes=CLASSES)
    engine = engines.load()
    built = rates.build_network(network, engine)
    prefix = os.path.join(folder, "network")
    checkpoint.save(prefix, 0, rates.with_random_weights(built, engine, (3, SIDE, SIDE)))
    files = ["--data-train", rec, "--data-val", rec, "--pretrained-model", prefix]
    sizes = ["--image-shape", f"3,{SIDE},{SIDE}", "--batch-size", str(BATCH_SIZE), "--gpus", "cpu"]
    run = [*files, *sizes, "--model-prefix", os.path.join(folder, "run"), "--dry-run"]
    commands = {f"`{script} --help`": [script, "--help"] for script in HELP}
    for name in engines.installed():
        load = f"from common import engines; engines.load('{name}')"
        commands[f"import of the engine, {TITLES[name]}"] = ["-c", load]
        commands[f"`fine-tune.py --dry-run`, {TITLES[name]}"] = [
            *("fine-tune.py", *run, "--engine", name),
        ]
    return commands


def runs(command, checkout):
    """Return whether a checkout has a command."""
    return not start(command, checkout).returncode


def start(command, checkout):
    """Run Python with a command in a checkout; return what `subprocess.run` does."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def seconds_of(command, checkout):
    """Run Python with this command in a checkout; return the seconds of a core that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = start(command, checkout)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: failed in {checkout}: {done.stderr.strip()[-300:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def revision(checkout):
    """Return the commit of a checkout, short."""
    command = ["git", "-C", checkout, "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8").stdout.strip()


def starts_table(results, sources):
    """A row for each command: its seconds, beside the older revision's."""
    older, rows = results["starts"]["older"], []
    for what, measured in results["starts"]["seconds"].items():
        ours = statistics.median(measured["this"])
        row = [what, f"{ours:.2f}"]
        if "older" in measured:
            theirs = statistics.median(measured["older"])
            row += [f"{theirs:.2f}", f"{ours / theirs:.2f}"]
        elif older:
            row += ["", ""]
        rows.append(row)
    return markdown(
        ["what", "s of a core", *([f"revision {older}", "ratio"] if older else [])], rows
    )


if __name__ == "__main__":
    run_script(main)
