"""Two runs on one machine: images/s of a training alone, and beside another one or a busy loop.

    python -m benchmarks.company                    about two minutes on two cores
    python -m benchmarks.company --engine mxnet

By how OpenMP's threads wait: as libgomp has it, as the PyTorch engine sets it, and asleep at once.
ResNet-18 with random weights at 128 pixels, all cores for each run. Adds to
benchmarks/results/company.json.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks.compare import describe_range, make_parser, markdown, read_result, write_result
from benchmarks.sides import Side, rate
from common import engines
from common.base.script import run_script

WAITING = {  # the words of the table, and the environment
    "libgomp's default (`GOMP_SPINCOUNT=300000`)": "GOMP_SPINCOUNT=300000",
    "the PyTorch engine's default (`GOMP_SPINCOUNT=3000`)": "GOMP_SPINCOUNT=3000",
    "asleep at once (`OMP_WAIT_POLICY=passive`)": "OMP_WAIT_POLICY=passive",
}
SECONDS = 3.0  # of a round


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--engine", choices=engines.ENGINES, default="torch")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    result = read_result("company", args.quick)
    kept, versions = result.get("runs", {}), result.get("machine", {}).get("versions", {})
    kept[args.engine] = {}
    for words, setting in WAITING.items():
        kept[args.engine][words] = found = measure(args, setting, versions)
        described = "; ".join(f"{name} {describe_range(speeds)}" for name, speeds in found.items())
        print(f"{words}: {described}", flush=True)
    write_result("company", {"runs": kept}, args.quick, versions)


def measure(args, setting, versions):
    """Return the images/s of each round: alone, of one of two, and beside a busy loop."""
    command = ["env", setting, sys.executable, "-m", "benchmarks.train_rate", "--serve"]
    command += ["--engine", args.engine, "--network", "resnet-18", "--image-size", "128"]
    sides = [Side(setting, [*command, "--batches", "1"]) for _ in range(2)]
    found = {"alone": [], "each of two": [], "beside a busy loop": []}
    try:
        versions.update(sides[0].versions)
        for side in sides:
            side()
        for _ in range(args.rounds):
            found["alone"].append(rate(sides[0], SECONDS))
            with ThreadPoolExecutor(2) as pool:
                found["each of two"].append(sum(pool.map(rate, sides, [SECONDS] * 2)) / 2)
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            found["beside a busy loop"].append(rate(sides[0], SECONDS))
            loop.kill()
            loop.wait()
    finally:
        for side in sides:
            side.close()
    return found


def company_table(results, sources):
    """A row for each engine and way to wait: the images/s in each company."""
    rows = [
        [name, words, *(describe_range(speeds) for speeds in found.values())]
        for name, ways in results["company"]["runs"].items()
        for words, found in ways.items()
    ]
    header = ["engine", "waiting threads", "alone, images/s", "each of two", "beside a busy loop"]
    return markdown(header, rows)


if __name__ == "__main__":
    run_script(main)
