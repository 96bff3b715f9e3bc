"""The flags of today's recipes as a user types them, on each engine that is installed."""

import json
import os
import re

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.base.help import Parser
from common.data.flags import add_data_args, add_data_aug_args
from common.networks import Network, checkpoint, edits
from common.networks.graph import Builder
from common.training import recipes
from common.training.flags import add_fit_args, check_flags
from common.training.history import read_rows

ENGINES = engines.installed() or ["mxnet"]
AUGMENTED = [
    *("--mixup", 0.8, "--cutmix", 1, "--rand-augment", "2,9", "--random-erasing", 0.5),
    *("--label-smoothing", 0.1, "--logit-adjustment", 1, "--accumulate", 3, "--clip-norm", 1),
]


@pytest.fixture
def train(script, sample, tiny_network, tmp_path):
    """Train the sample with an engine: `train("torch", "run", …)` writes `tmp_path/run-*`."""

    def run(engine, name, *flags, status=0):
        return script(
            *("fine-tune.py", "--data-dir", sample, "--pretrained-model", tiny_network),
            *("--engine", engine, "--gpus", "cpu", "--image-shape", "3,32,32"),
            *("--batch-size", 16, "--mom", 0.9, "--lr-step-epochs", 2, "--data-nthreads", 2),
            *("--initial-validation", 0, "--model-prefix", tmp_path / name, *flags),
            status=status,
        ).stderr

    return run


def weights(prefix, epoch):
    network = checkpoint.load(str(prefix), epoch)
    return {**network.params, **network.stats}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_with_all_of_them_ends_as_an_uninterrupted_one(train, tmp_path, engine):
    train(engine, "whole", *AUGMENTED, "--num-epochs", 2, "--data-nthreads", 1)
    schedule = ("--num-epochs", 2, "--data-nthreads", 3)
    events = ("--tensorboard", tmp_path / "events")
    train(engine, "parts", *AUGMENTED, *events, "--num-epochs", 1)
    train(engine, "parts", *AUGMENTED, *events, *schedule, "--resume")
    expected, got = (weights(tmp_path / name, 2) for name in ("whole", "parts"))
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    logs = [read_rows(tmp_path / f"{name}-log.csv") for name in ("whole", "parts")]
    for column in ("loss", "top1", "val_loss", "lr"):
        assert logs[0][2][column] == logs[1][2][column]
    files = sorted(os.listdir(tmp_path / "events" / "parts"))  # to TensorBoard, a folder is a run
    assert files == [f"events.out.tfevents.0000000{epoch}.parts" for epoch in (1, 2)]
    flags = json.loads((tmp_path / "parts-config.json").read_text())["flags"]
    assert (flags["mixup"], flags["rand_augment"], flags["accumulate"]) == (0.8, "2,9", 3)


@pytest.fixture
def plain_network(tmp_path):
    """The prefix of a network without BatchNorm, which sees no batches, only images."""
    builder, random = Builder(), np.random.RandomState(0)
    body = builder.add("_div_scalar", None, builder.variable("data"), scalar=255)
    body = builder.add("Convolution", "conv0", body, kernel=(8, 8), stride=(8, 8), num_filter=8)
    body = builder.add("Activation", None, body, act_type="tanh")
    body = builder.add("Pooling", None, body, global_pool=True, pool_type="avg", kernel=(1, 1))
    body = builder.add("Flatten", None, body)
    graph = builder.graph(edits.classify(builder, body, 7, "fc1"))
    shapes = {"conv0_weight": (8, 3, 8, 8), "conv0_bias": (8,)}
    shapes.update(fc1_weight=(7, 8), fc1_bias=(7,))
    params = {n: 0.1 * random.randn(*shape).astype(np.float32) for n, shape in shapes.items()}
    checkpoint.save(str(tmp_path / "plain"), 0, Network(graph, params, {}, "fc1"))
    return tmp_path / "plain"


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulated_batches_train_as_one_large_batch(train, tmp_path, plain_network, engine):
    """The schedule counts updates: the rates are the same too."""
    common = ("--pretrained-model", plain_network, "--num-epochs", 2, "--lr-scheduler", "cosine")
    train(engine, "joint", *common)
    train(engine, "parts", *common, "--batch-size", 8, "--accumulate", 2)
    before, joint, parts = (
        weights(*where)
        for where in ((plain_network, 0), (tmp_path / "joint", 2), (tmp_path / "parts", 2))
    )
    for name in ("conv0_weight", "conv0_bias"):
        moved = np.linalg.norm(joint[name] - before[name])
        assert np.linalg.norm(parts[name] - joint[name]) < 1e-3 * moved
    logs = [read_rows(tmp_path / f"{name}-log.csv") for name in ("joint", "parts")]
    assert [logs[0][epoch]["lr"] for epoch in (1, 2)] == [logs[1][epoch]["lr"] for epoch in (1, 2)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_stops_when_patience_is_at_its_end_and_a_resumed_one_remembers(
    train, tmp_path, engine
):
    # With this rate only the statistics of BatchNorm change, for a few epochs.
    flags = ("--lr", 1e-9, "--patience", 2, "--num-epochs", 30)
    scores = []
    for more in ((), ("--resume",)):
        said = train(engine, "run", *flags, *more)
        assert "--patience 2: validation's top-1 accuracy has not improved: stops" in said
        rows = read_rows(tmp_path / "run-log.csv")
        scores.append([row["val_top1"] for row in rows.values()])
        assert checkpoint.find_epochs(str(tmp_path / "run")) == list(rows)
    assert scores[0] == scores[1]
    assert len(scores[0]) - 1 - scores[0].index(max(scores[0])) == 2


def test_patience_without_validation_is_refused(train, sample, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train.rec", "train.idx"):
        (tmp_path / "data" / name).symlink_to(sample / name)
    flags = ("--data-dir", tmp_path / "data", "--patience", 2)
    said = train(ENGINES[0], "run", *flags, status=2)
    assert re.search("--patience 2: needs validation records; make val.rec", said)


# Named recipes ------------------------------------------------------------------------------------


def make_parser():
    parser = Parser(allow_abbrev=False)
    add_fit_args(parser)
    add_data_args(parser)
    add_data_aug_args(parser)
    return parser


def parse(*flags):
    return recipes.parse_args(make_parser(), [*map(str, flags)])


def test_the_baseline_is_what_there_is_without_a_recipe():
    plain, baseline = vars(parse()), vars(parse("--recipe", "baseline-2017"))
    assert baseline == {**plain, "recipe": "baseline-2017"}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_sets_flags_that_there_are_to_values_that_are_allowed(name):
    plain, args = vars(parse()), parse("--recipe", name)
    changed = {flag: value for flag, value in vars(args).items() if value != plain[flag]}
    assert changed == {
        "recipe": name,
        **{flag: value for flag, value in recipes.RECIPES[name].items() if value != plain[flag]},
    }
    # Typed, the values are the same, and of the same types.
    typed = parse("--recipe", name, *_typed(recipes.RECIPES[name]))
    assert {flag: getattr(typed, flag) for flag in recipes.RECIPES[name]} == recipes.RECIPES[name]
    installed = engines.installed()
    if installed and args.engine in ("auto", *installed):
        check_flags(args, engines.load(args.engine))


def _typed(values):
    return [text for flag, v in values.items() for text in (f"--{flag.replace('_', '-')}", v)]


@pytest.mark.parametrize("flags", [("--lr", 0.5, "--recipe"), ("--recipe", "--lr", 0.5)])
def test_what_is_typed_counts_before_the_recipe(flags):
    place = flags.index("--recipe") + 1
    args = parse(*flags[:place], "vit", *flags[place:])
    assert (args.lr, args.wd, args.accumulate) == (0.5, 0.01, 32)
    level = parse("--data-aug-level", 2, "--recipe", "baseline-2017")
    assert (level.brightness, level.random_resized_crop) == (0, 0)


def test_an_unknown_recipe_is_refused_with_the_names_of_all():
    with pytest.raises(UserError, match=r"--recipe: invalid choice: .resnet. .*winners-2017"):
        parse("--recipe", "resnet")


def test_the_flags_of_a_recipe_are_printed(train, tmp_path):
    flags = ("--recipe", "winners-2017", "--num-epochs", 2, "--dry-run")
    said = train(ENGINES[0], "run", *flags)
    (line,) = [line for line in said.splitlines() if "--recipe" in line]
    assert "--recipe winners-2017: --class-balance 1.0 --lr 0.001; typed instead:" in line
    assert "--num-epochs 2" in line and "--image-shape 3,32,32" in line
