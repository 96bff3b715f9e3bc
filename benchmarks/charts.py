"""The charts beside the tables: ratios with their spread, scaling, accuracies."""

import statistics

from matplotlib.figure import Figure

from benchmarks.compare import describe_range, ratios
from benchmarks.learning import WORDS, accuracies
from common.base.files import replacing

OURS, PEER, SPREAD, GRID = "#d1495b", "#8c96a3", "#1d2329", "#eceef1"


def draw_ratios(path, results, sources):
    """Draw how many times as fast ours is: a bar for each peer, the median with its range."""
    comparisons = [c for source in sources for c in results[source]["comparisons"]]
    heights = [len(comparison["against"]) for comparison in comparisons]
    inches = 0.34 * sum(heights) + 0.42 * len(comparisons) + 0.5
    figure = Figure(figsize=(9, inches), dpi=110, layout="constrained")
    all_axes = figure.subplots(
        len(comparisons), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    most = 1
    for axes, comparison in zip(all_axes, comparisons):
        peers = list(comparison["against"])
        for place, peer in enumerate(peers):
            times = ratios(comparison["ours"], comparison["against"][peer])
            axes.barh(place, statistics.median(times), height=0.62, color=OURS)
            axes.hlines(place, min(times), max(times), color=SPREAD, linewidth=1.4)
            write(axes, f"{statistics.median(times):.2f}", (max(times), place), (5, 0), va="center")
            most = max(most, *times)
        axes.set_yticks(range(len(peers)), [plain(peer) for peer in peers], fontsize=9)
        axes.set_ylim(len(peers) - 0.45, -0.55)
        axes.set_title(comparison["what"], loc="left", fontsize=10, fontweight="bold")
        axes.axvline(1, color=PEER, linestyle=":", linewidth=1.2, zorder=0)
        style(axes, "x")
    all_axes[-1].set_xlim(0, 1.1 * most)
    all_axes[-1].set_xlabel("times as fast as the peer (dotted: equally fast)", fontsize=9)
    save(figure, path)


def draw_scaling(path, results, sources):
    """Draw the speed of packing and feeding over the workers, beside perfect scaling."""
    figure = Figure(figsize=(9, 3), dpi=110, layout="constrained")
    parts = (("packing", "packing"), ("feeding", "feeding, training preset"))
    for axes, (name, title) in zip(figure.subplots(1, 2), parts):
        speeds = results["scaling"][name]
        one = statistics.median(speeds["1"])
        for place, (workers, values) in enumerate(speeds.items()):
            axes.bar(place, statistics.median(values), width=0.6, color=OURS)
            axes.vlines(place, min(values), max(values), color=SPREAD, linewidth=1.4)
            axes.hlines(int(workers) * one, place - 0.4, place + 0.4, color=PEER, linestyle=":")
            top = max(*values, int(workers) * one)
            write(axes, describe_range(values).partition(" ")[0], (place, top), (0, 5), ha="center")
        axes.set_xticks(range(len(speeds)), list(speeds))
        axes.set(xlabel="workers (dotted: as many times one worker)", ylabel="images/s")
        axes.margins(y=0.12)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        style(axes, "y")
    save(figure, path)


def draw_learning(path, results, sources):
    """Draw the accuracy of every seed, and their mean and standard deviation."""
    runs = results["learning"]["runs"]
    names = [name for name in WORDS if name in runs]
    figure = Figure(figsize=(9, 0.42 * len(names) + 1), dpi=110, layout="constrained")
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, images in zip(all_axes, ("test", "val")):
        for place, name in enumerate(names):
            seeds = [100 * run[images]["right"] / run[images]["of"] for run in runs[name].values()]
            mean, deviation = (100 * value for value in accuracies(runs[name], images))
            axes.errorbar(mean, place, xerr=deviation, color=OURS, marker="D", capsize=3)
            below = [place + 0.25] * len(seeds)
            axes.scatter(seeds, below, 16, color=PEER, alpha=0.6, linewidths=0)
        count = next(iter(runs[names[0]].values()))[images]["of"]
        axes.set_title(f"{images}, {count} photographs", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlim(0, 100)
        style(axes, "x")
    all_axes[0].set_yticks(range(len(names)), [plain(WORDS[name]) for name in names], fontsize=9)
    all_axes[0].set_ylim(len(names) - 0.5, -0.5)
    words = "top-1 accuracy in %: mean and standard deviation (red), each seed (grey)"
    figure.supxlabel(words, fontsize=9)
    save(figure, path)


def write(axes, words, point, offset, **alignment):
    """Write beside a point; legible over lines."""
    axes.annotate(
        words,
        point,
        xytext=offset,
        textcoords="offset points",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        **alignment,
    )


def plain(words):
    """Return words without the marks of code in Markdown."""
    return words.replace("`", "")


def style(axes, grid):
    """Style axes as in all charts: a light grid in one direction, no frame."""
    axes.grid(axis=grid, color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
