"""The tables and bar charts of the README and docs/, made from the results of the benchmarks.

    python -m benchmarks.tables            benchmarks/results/*.json -> the pages that PAGES names
    python -m benchmarks.tables --quick    benchmarks/quick/*.json -> benchmarks/quick/tables.md

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, and is not edited by hand. Its
chart is a PNG beside the results.
"""

import os
import re
import statistics

from benchmarks import (
    charts,
    choices,
    company,
    demo_accuracy,
    growth,
    momentum,
    plan,
    prediction_profile,
    starts,
)
from benchmarks.compare import (
    QUICK_RESULTS,
    RESULTS,
    describe_range,
    make_parser,
    markdown,
    ratios,
    read_result,
)
from benchmarks.learning import KILLED, WORDS, accuracies, same_weights
from common.base.files import ROOT, UserError, atomic_open
from common.base.script import run_script

PAGES = ["README.md", *(os.path.join("docs", name) for name in ("benchmarks.md", "planning.md"))]
COMMANDS = {  # the command that makes a result; its footnote begins with it
    "packing": "python -m benchmarks.packing",
    "packing_large": "python -m benchmarks.packing --large",
    "feeding": "python -m benchmarks.feeding",
    "feeding_profile": "python -m benchmarks.feeding_profile",
    "loader_memory": "python -m benchmarks.loader_memory",
    "training": "python -m benchmarks.training",
    "training_loop": "python -m benchmarks.training_loop",
    "training_profile": "python -m benchmarks.training_profile",
    "engines": "python -m benchmarks.engines",
    "engines_avx2": "python -m benchmarks.engines --instructions AVX2",
    "engines_avx512_core": "python -m benchmarks.engines --instructions AVX512_CORE",
    "engines_amx": "python -m benchmarks.engines --instructions AMX",
    "gpu": "python -m benchmarks.gpu",
    "growth": "python -m benchmarks.growth",
    "company": "python -m benchmarks.company",
    "starts": "python -m benchmarks.starts",
    "inference_peers": "python -m benchmarks.inference_peers",
    "prediction_profile": "python -m benchmarks.prediction_profile",
    "submission": "python -m benchmarks.submission",
    "lists": "python -m benchmarks.lists",
    "merge": "python -m benchmarks.merge",
    "scaling": "python -m benchmarks.scaling",
    "processes": "python -m benchmarks.processes",
    "learning": "python -m benchmarks.learning",
    "demo_accuracy": "python -m benchmarks.demo_accuracy",
    "momentum": "python -m benchmarks.momentum",
    "choices": "python -m benchmarks.choices",
}
HIGHLIGHTS = {"packing": -1, "feeding": 0, "gpu": 0}  # which comparisons the README shows
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "amx_bf16": "AMX",
}


def main():
    args = make_parser(__doc__).parse_args()
    results = {name: read_result(name, args.quick) for name in COMMANDS}
    if args.quick:
        draw_charts(results, QUICK_RESULTS)
        path = os.path.join(QUICK_RESULTS, "tables.md")
        with atomic_open(path) as stream:
            for name in TABLES:
                stream.write(f"## {name}\n\n{make_table(name, results, charts_in='.')}\n\n")
        print(f"{path}: all tables")
        return
    draw_charts(results, RESULTS)
    for page in PAGES:
        path = os.path.join(ROOT, page)
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        with atomic_open(path) as stream:
            stream.write(fill(text, results))
        print(f"{page}: tables made from benchmarks/results")


def fill(text, results):
    """Return a page with all its tables remade.

    Raises:
        UserError: a marker names an unknown table, or its end is missing.
    """

    def make(match):
        name = match.group(1)
        if name not in TABLES:
            raise UserError(f"<!-- table: {name} -->: must be of {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n{make_table(name, results)}\n<!-- end -->"

    if text.count("<!-- table: ") != text.count("<!-- end -->"):
        raise UserError("a <!-- table: --> has no <!-- end -->, or vice versa")
    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", make, text, flags=re.DOTALL)


def make_table(name, results, charts_in="../benchmarks/results"):
    """Return a table in Markdown, with its chart above and its command and machine below.

    `charts_in` is the folder of the charts, as seen from the page (of docs/).
    """
    make, draw, sources = TABLES[name]
    missing = [source for source in sources if not results[source]]
    if missing:
        return f"Not measured yet: `{COMMANDS[missing[0]]}`."
    parts = [make(results, sources), footnote(results, sources)]
    if draw is not None:
        parts.insert(0, f"![the table below, as a chart]({charts_in}/{name}.png)")
    return "\n\n".join(parts)


def draw_charts(results, folder):
    """Draw the charts of the tables that are measured."""
    for name, (_, draw, sources) in TABLES.items():
        if draw is not None and all(results[source] for source in sources):
            draw(os.path.join(folder, f"{name}.png"), results, sources)


# --- The tables ---------------------------------------------------------------------------------


def ratio_table(results, sources):
    """A row for each peer: how many times as fast ours is, and the speeds of both."""
    rows = []
    for source in sources:
        for comparison in results[source]["comparisons"]:
            what, ours = comparison["what"], comparison["ours"]
            for peer, theirs in comparison["against"].items():
                times, _, spread = describe_range(ratios(ours, theirs)).partition(" ")
                speeds = [describe_range([statistics.median(side)]) for side in (ours, theirs)]
                rows.append([what, peer, f"**{times}** {spread}".strip(), *speeds])
                what = ""  # only in the first row
    return markdown(["what", "against", "times as fast", "ours, images/s", "theirs"], rows)


def gpu_table(results, sources):
    """As `ratio_table`, and which share of the card's arithmetic ours uses."""
    table, *rows = ratio_table(results, sources).split("\n")
    shares = [f"{c['share_of_peak']:.2f}" for c in results["gpu"]["comparisons"]]
    columns = ["share of the peak", "---", *shares]
    return "\n".join(f"{line} {cell} |" for line, cell in zip([table, *rows], columns))


def highlights_table(results, sources):
    """A row for the main comparison of each result, with all its peers in one cell."""
    rows = []
    for source in sources:
        comparison = results[source]["comparisons"][HIGHLIGHTS[source]]
        ours = comparison["ours"]
        times = [
            f"{peer}: {statistics.median(ratios(ours, theirs)):.2f}"
            for peer, theirs in comparison["against"].items()
        ]
        speed = describe_range([statistics.median(ours)])
        rows.append([comparison["what"], speed, "; ".join(times)])
    return markdown(["what", "images/s", "times as fast as"], rows)


def cost_table(results, sources):
    """A row for each job: its time and its memory."""
    large, merge, feeding = (results[name] for name in ("packing_large", "merge", "loader_memory"))
    jobs = {
        f"`mx_list.py`, {int(n):,} images": run for n, run in results["lists"]["images"].items()
    }
    jobs[f"`im2rec.py`, {large['photographs']:,} photographs of 6000x4000, two threads"] = large
    what = f"`sub.py --merge`, {merge['networks']} networks, {merge['images']:,} images,"
    jobs[f"{what} {merge['classes']:,} classes"] = merge
    rows = [
        [what, describe_range(run["seconds"]), f"{run['peak_bytes'] / 1e6:.0f}"]
        for what, run in jobs.items()
    ]
    epochs = feeding["megabytes"]
    what = f"feeding, {len(epochs)} epochs, of which the last ten added {feeding['growth']:.0f} MB"
    rows.append([what, "", f"{max(epochs):.0f}"])
    return markdown(["what", "seconds", "MB at most"], rows)


def scaling_table(results, sources):
    """A row for each number of workers: the speed, and its ratio to that of one worker."""
    packing, feeding = (results["scaling"][name] for name in ("packing", "feeding"))
    rows = []
    for workers in packing:
        row = [workers]
        for speeds in (packing, feeding):
            times = describe_range(ratios(speeds[workers], speeds["1"]))
            row += [describe_range(speeds[workers]), times if workers != "1" else ""]
        rows.append(row)
    times = "times one worker"
    return markdown(["workers", "packing, images/s", times, "feeding, images/s", times], rows)


def processes_table(results, sources):
    """A row for each number of processes: their speed, and what exchanging the gradients takes."""
    runs = {count: run for count, run in results["processes"].items() if count.isdecimal()}
    rows = []
    for count, run in runs.items():
        times = describe_range(ratios(run["speeds"], runs["1"]["speeds"]))
        alone = count == "1"
        exchange = "" if alone else describe_range(run["exchanges"])
        rows.append([count, describe_range(run["speeds"]), "" if alone else times, exchange])
    header = ["processes", "training, images/s", "times one process", "exchange, ms"]
    return markdown(header, rows)


def learning_table(results, sources):
    """A row for each variant: mean and standard deviation of the accuracy over the seeds."""
    runs = results["learning"]["runs"]
    rows = []
    for name, words in WORDS.items():
        if name in runs:
            cells = [
                "{:.1f} ± {:.1f}".format(*(100 * value for value in accuracies(runs[name], images)))
                for images in ("test", "val")
            ]
            seconds = statistics.median(run["training_seconds"] for run in runs[name].values())
            rows.append([words, len(runs[name]), *cells, f"{seconds:.0f}"])
    table = markdown(["what", "seeds", "test top-1, %", "val top-1, %", "training, s"], rows)
    if {KILLED, "plain"} <= runs.keys():
        equal, count = same_weights(runs[KILLED], runs["plain"])
        table += (
            "\n\nThe killed and resumed run ended with exactly the weights of the uninterrupted one"
            f" in {equal} of {count} seeds."
        )
    return table


def demo_accuracy_table(results, sources):
    """A row for each engine and limit of the processor's instructions, and for all."""
    return demo_accuracy.table(results["demo_accuracy"]["recipes"])


def momentum_table(results, sources):
    """A row for each rule, and one with the differences between the two runs of a seed."""
    runs = results["momentum"]["runs"]
    rows = []
    for rule, words in momentum.RULES.items():
        top1, loss = (momentum.score(runs, rule, name) for name in momentum.SCORES)
        rows.append([words, len(runs), *_scores(top1, loss)])
    gains = [momentum.gains(runs, name) for name in momentum.SCORES]
    rows.append(
        ["gained, seed by seed", "", *_scores(*map(momentum.mean_and_deviation, gains), "+")]
    )
    table = markdown(["what", "seeds", "val top-1, %", "val loss"], rows)
    each = ", ".join(f"{100 * gain:+.1f}" for gain in gains[0])
    return f"{table}\n\nTop-1 gained in each seed, in points: {each}."


def _scores(top1, loss, sign=""):
    """The cells of an accuracy and a loss, each with its standard deviation."""
    top1 = [100 * value for value in top1]
    return f"{top1[0]:{sign}.1f} ± {top1[1]:.1f}", f"{loss[0]:{sign}.3f} ± {loss[1]:.3f}"


def choices_table(results, sources):
    """A row for each flag of training: its scores, and what it changes."""
    return choices.table(results["choices"]["runs"])


def profile_table(results, sources):
    """A row for each group of operators: milliseconds a step, and how much faster ours is."""
    first, *ours = results["training_profile"]["milliseconds"].items()
    header, rows = ["operators", f"{first[0]}, ms"], []
    for name, _ in ours:
        header += [f"{name}, ms", "times as fast"]
    for group in (*first[1], "all"):
        times = [
            sum(part.values()) if group == "all" else part[group] for _, part in (first, *ours)
        ]
        row = [group, f"{times[0]:.0f}"]
        for time in times[1:]:
            row += [f"{time:.0f}", f"{times[0] / time:.2f}" if min(time, times[0]) >= 1 else ""]
        rows.append(row)
    return markdown(header, rows)


def feeding_profile_table(results, sources):
    """A row for each step of feeding: milliseconds of a core an image, and its share."""
    profiles = results["feeding_profile"]["milliseconds"]
    header, rows = ["step"], []
    for preset in profiles:
        header += [f"{preset}, ms of a core", "share"]
    for step in (*profiles["training"], "all"):
        row = [step]
        for steps in profiles.values():
            total = sum(steps.values())
            milliseconds = total if step == "all" else steps.get(step)
            is_done = milliseconds is not None  # validation leaves the colours
            row += [f"{milliseconds:.2f}", f"{milliseconds / total:.0%}"] if is_done else ["", ""]
        rows.append(row)
    return markdown(header, rows)


def footnote(results, sources):
    """Return the commands that make a table, and the machine that each ran on."""
    commands = {}
    for source in sources:
        machine = describe_machine(results[source]["machine"])
        commands.setdefault(machine, []).append(f"`{COMMANDS[source]}`")
    return "\n\n".join(f"{', '.join(typed)}: {machine}." for machine, typed in commands.items())


def describe_machine(machine):
    """Return in one line where and with what something was measured."""
    instructions = "".join(f", {INSTRUCTIONS.get(i, i)}" for i in machine["instructions"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores{instructions}; {machine['system']},"
        f" {versions}; {machine['date']}"
    )


TABLES = {  # name: (what writes it, what draws its chart, the results that it needs)
    "packing": (ratio_table, charts.draw_ratios, ["packing"]),
    "feeding": (ratio_table, charts.draw_ratios, ["feeding"]),
    "feeding_profile": (feeding_profile_table, None, ["feeding_profile"]),
    "training": (ratio_table, charts.draw_ratios, ["training", "training_loop"]),
    "highlights": (highlights_table, None, ["packing", "feeding", "gpu"]),
    "training_profile": (profile_table, None, ["training_profile"]),
    "submission": (ratio_table, charts.draw_ratios, ["submission"]),
    "engines": (ratio_table, charts.draw_ratios, ["engines"]),
    "engines_older": (ratio_table, None, ["engines_avx2", "engines_avx512_core"]),
    "engines_amx": (ratio_table, None, ["engines_amx"]),
    "inference_peers": (ratio_table, charts.draw_ratios, ["inference_peers"]),
    "prediction_profile": (prediction_profile.profile_table, None, ["prediction_profile"]),
    "scaling": (scaling_table, charts.draw_scaling, ["scaling"]),
    "processes": (processes_table, None, ["processes"]),
    "cost": (cost_table, None, ["lists", "packing_large", "loader_memory", "merge"]),
    "learning": (learning_table, charts.draw_learning, ["learning"]),
    "demo_accuracy": (demo_accuracy_table, None, ["demo_accuracy"]),
    "momentum": (momentum_table, None, ["momentum"]),
    "gpu": (gpu_table, None, ["gpu"]),
    "company": (company.company_table, None, ["company"]),
    "starts": (starts.starts_table, None, ["starts"]),
    "growth": (growth.growth_table, None, ["growth"]),
    "growth_records": (growth.records_table, None, ["growth"]),
    "rates": (plan.rates_table, None, ["scaling", "lists", "merge", "gpu"]),
    "plan": (plan.plan_table, None, ["scaling", "gpu"]),
    "choices": (choices_table, None, ["choices"]),
}


if __name__ == "__main__":
    run_script(main)
