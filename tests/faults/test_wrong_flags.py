"""Flags that make no sense: one line, exit status 2, before any long work, and nothing written."""

import re

import pytest

from common.engines import installed
from common.networks import checkpoint, graph
from tests.faults import workplace
from tests.faults.workplace import PREDICT, TRAIN
from tests.random_networks import with_random_weights

FINE_TUNE = [
    *("fine-tune.py", *TRAIN, "--pretrained-model", "zoo"),
    *("--num-epochs", "4", "--lr-step-epochs", "", "--dry-run"),
]
SUBMIT = ["sub.py", "1", "cpu", *PREDICT]
LISTS = ["mx_list.py", "--data-dir", "."]
PACK = ["im2rec.py", "train", "."]
MAKE_LIST = ["im2rec.py", "mine", "train_val_images", "--list", "--recursive"]
INFO = ["common.modelzoo", "info", "zoo", "--model-dir", "."]
IMPORT = ["common.modelzoo", "import", "zip.pth", "--name", "x", "--model-dir", "."]

COMMANDS = {
    **{f"fine-tune with {engine}": [*FINE_TUNE, "--engine", engine] for engine in installed()},
    **{f"sub with {engine}": [*SUBMIT, "--engine", engine] for engine in installed()},
    "mx_list": LISTS,
    "im2rec": PACK,
    "im2rec --list": MAKE_LIST,
    "modelzoo info": INFO,
    "modelzoo import": IMPORT,
}
# How many flags take numbers, at least: a check on the search for them.
LEAST = {"fine-tune": 44, "sub": 5, "mx_list": 2, "im2rec": 6}
# None of these is a good number for every flag.
NUMBERS = ["nan", "-inf", "1e308", "1e-320", "-1", "0", str(10**30), ""]

# A command, flags that it must refuse, and a part of its message.
WRONG = [
    (FINE_TUNE, "--batch-size 13", "--batch-size 13: is more than the 12 images of ./train.rec"),
    (FINE_TUNE, "--accumulate 0", "--accumulate 0: must be 1 or more"),
    (FINE_TUNE, "--clip-norm nan", "--clip-norm: 'nan' is not a number"),
    (FINE_TUNE, "--cutmix -1", "--cutmix -1.0: must be 0 or more"),
    (FINE_TUNE, "--mixup -1", "--mixup -1.0: must be 0 or more"),
    (FINE_TUNE, "--rand-augment 2,eleven", "--rand-augment 2,eleven: must be N,M"),
    (FINE_TUNE, "--random-erasing 2", "--random-erasing 2.0: must be 0 to 1"),
    (FINE_TUNE, "--logit-adjustment 11", "--logit-adjustment 11.0: must be 0 to 10"),
    (FINE_TUNE, "--patience -1", "--patience -1: must be 0 or more"),
    (FINE_TUNE, "--recipe resnet", "--recipe: invalid choice: 'resnet'"),
    (FINE_TUNE, "--num-classes 0", "--num-classes 0: must be 1 to"),
    (FINE_TUNE, "--num-classes 5", "--num-classes 5: ./train.rec holds labels up to 5"),
    (FINE_TUNE, "--lr-step-epochs 1,2,3,4,5", "more steps than --num-epochs 4 has epochs"),
    (FINE_TUNE, "--lr-step-epochs 2,1", "--lr-step-epochs 2,1: epochs must increase"),
    (
        FINE_TUNE,
        "--lr-step-epochs 0,1",
        "--lr-step-epochs 0,1: epochs must increase, and begin at 1",
    ),
    (FINE_TUNE, "--lr-step-epochs 1.5", "--lr-step-epochs 1.5: not epochs separated by commas"),
    (FINE_TUNE, "--gpus 7", "--gpus 7: "),
    (FINE_TUNE, "--gpus 0,0", "--gpus 0,0: a device is named twice"),
    (FINE_TUNE, "--gpus two", "--gpus two: not a list of GPUs"),
    (FINE_TUNE, "--gpus cpu:0,cpu:1,cpu:2 --batch-size 2", "less than an image for each of the 3"),
    (FINE_TUNE, "--image-shape 3,0,32", "--image-shape 3,0,32: must be 3,HEIGHT,WIDTH"),
    (FINE_TUNE, "--image-shape 1,32,32", "--image-shape 1,32,32: must be 3,HEIGHT,WIDTH"),
    (FINE_TUNE, "--image-shape 3,99999,99999", "--image-shape 3,99999,99999: must be 3,HEIGHT"),
    (FINE_TUNE, "--image-shape 3,9999,9999 --batch-size 12", "--batch-size 12: that many images"),
    (FINE_TUNE, "--pretrained-model fixed --image-shape 3,8,8", "this network cannot take such"),
    (FINE_TUNE, "--pretrained-model fixed --image-shape 3,64,64", "fc1_weight is (4, "),
    (FINE_TUNE, "--dtype float8", "--dtype float8: must be one of float32"),
    (FINE_TUNE, "--kv-store devices", "--kv-store: invalid choice: 'devices'"),
    (FINE_TUNE, "--load-epoch 9", "run-0009.params: not found; epochs that are there: 1, 2"),
    (FINE_TUNE, "--pretrained-epoch 9", "zoo-0009.params: not found; epochs that are there: 0"),
    (FINE_TUNE, "--pretrained-model zo", "zo-symbol.json: not found, and zo is not a name of the"),
    (FINE_TUNE, "--pretrained-model .", ".-symbol.json: not found"),
    (FINE_TUNE, "--pretrained-model train.lst", "train.lst: is not a PyTorch checkpoint"),
    (FINE_TUNE, "--model-prefix nowhere/run", "--model-prefix nowhere/run: there is no folder"),
    (
        FINE_TUNE,
        "--model-prefix ./",
        "--model-prefix ./: add what the names of the files begin with",
    ),
    (
        FINE_TUNE,
        "--data-dir nowhere",
        "nowhere/train.rec: not found; make it with: sh gen_rec.sh nowhere",
    ),
    (FINE_TUNE, "--data-train .", ".: is a folder, not a file"),
    (FINE_TUNE, "--data-train train.lst", "train.lst: is not a RecordIO file"),
    (FINE_TUNE, "--data-train-idx val.idx", "val.idx: is not the index of ./train.rec"),
    (FINE_TUNE, "--data-val zoo-0000.params", "zoo-0000.params: is not a RecordIO file"),
    (FINE_TUNE, "--layer-before-fullc pool9", "--layer-before-fullc pool9: this network has no"),
    (FINE_TUNE, "--freeze (", "--freeze (: not a regular expression"),
    (FINE_TUNE, "--freeze nothing", "--freeze nothing: matches no parameter"),
    (FINE_TUNE, "--freeze .*", "--freeze .*: matches all parameters"),
    (FINE_TUNE, "--min-random-area 0.9 --max-random-area 0.5", "the least no larger than the"),
    (FINE_TUNE, "--rgb-mean 1,2", "--rgb-mean 1,2: must be three numbers"),
    (FINE_TUNE, "--rgb-std 1,0,1", "--rgb-std 1,0,1: must not be 0: colours"),
    (FINE_TUNE, "--top-k 0", "--top-k 0: not whole numbers from 1 on"),
    (FINE_TUNE, "--preview .", "--preview .: must end in .png or .jpg"),
    (FINE_TUNE, "--preview sheet.txt", "--preview sheet.txt: must end in .png or .jpg"),
    (FINE_TUNE, "--no-such-flag", "unrecognized arguments: --no-such-flag"),
    (SUBMIT, "--crop-size 99999", "--crop-size 99999: must be 1 to 10000"),
    (SUBMIT, "--crop-size 9999 --batch-size 16", "--batch-size 16: that many images of 9999x9999"),
    (SUBMIT, "--resize 99999", "--resize 99999: must be 1 to 20000"),
    (SUBMIT, "--crops 3", "--crops: invalid choice"),
    (SUBMIT, "--weights 1,2", "--weights: must be 1 positive numbers"),
    (SUBMIT, "--weights nan", "--weights: must be 1 positive numbers"),
    (SUBMIT, "--dtype float8", "--dtype: invalid choice"),
    (SUBMIT, "--output .", ".: is a folder"),
    (SUBMIT, "--output nowhere/out.csv", "nowhere/out.csv: its folder does not exist"),
    (SUBMIT, "--save-probs nowhere/a.npz", "nowhere/a.npz: its folder does not exist"),
    (SUBMIT, "--data-dir nowhere", "nowhere/test2017.json: not found"),
    (SUBMIT, "--model-prefix nowhere/run", "nowhere/run-symbol.json: not found"),
    (["sub.py", "9", "cpu", *PREDICT], "", "run-0009.params: not found; epochs that are there"),
    (["sub.py", "one", "cpu", *PREDICT], "", "EPOCH one: must be numbers"),
    (["sub.py", "1", "7", *PREDICT], "", "GPU 7: "),
    (["sub.py"], "", "EPOCH and GPU are needed"),
    (["sub.py", "--merge", "."], "", ".: is a folder"),
    (["sub.py", "--merge", "train.rec"], "", "train.rec: not a whole probability file"),
    (["sub.py", "--merge", "a.npz", "b.npz"], "--weights 1", "--weights: must be 2 positive"),
    (LISTS, "--sets train vall", "./vall2017.json: not found"),
    (LISTS, "--year 2016", "./train2016.json: not found"),
    (LISTS, "--data-dir train.lst", "train.lst/train2017.json: not found"),
    (LISTS, "--val-into-train 1", "--val-into-train 1.0: must be from 0 to below 1"),
    (LISTS, "--val-into-train 0.5 --sets train", "--val-into-train: needs train and val"),
    (["im2rec.py", "trian", "."], "", "trian.lst: not found; make it with"),
    (["im2rec.py", "train"], "", "ROOT is missing"),
    (["im2rec.py", "train", "nowhere"], "", "nowhere: not a folder"),
    (["im2rec.py", "train", "train.lst"], "", "train.lst: not a folder"),
    (PACK, "--quality 101", "--quality 101: must be 0 to 100"),
    (PACK, "--decode", "--decode: has a meaning only with --verify"),
    (PACK, "--verify --reindex", "--verify: cannot be combined with --reindex; leave one of them"),
    (MAKE_LIST, "--resume", "--list: cannot be combined with --resume; leave one of them out"),
    (PACK, "--encoding .bmp", "--encoding: invalid choice"),
    (["im2rec.py", "--verify", "nowhere"], "", "nowhere.rec: not found"),
    (["im2rec.py", "--reindex", "nowhere"], "", "nowhere.rec: not found"),
    (MAKE_LIST, "--chunks 99", "--chunks 99: more lists than the 18 images"),
    (MAKE_LIST, "--train-ratio 0.9 --test-ratio 0.9", "are more than 1 together"),
    (INFO, "--epoch 9", "zoo-0009.params: not found"),
    (INFO, "--image-size 0", "--image-size 0: this network cannot take such images"),
    (IMPORT, "--mean 1,2,3", "--mean, --std: are for ONNX files, and zip.pth is none; leave them"),
    (IMPORT, "--name ../x", "--name ../x: must be a name, without a folder"),
    (IMPORT, "--name ..", "--name ..: must be a name, without a folder"),
    (IMPORT, "--mean 1,2", "three numbers"),
    (IMPORT, "--std 0,1,1", "--std: 0,1,1: must be more than 0: colours are divided by it"),
    (["common.modelzoo", "import", "train.rec", "--name", "x"], "", "train.rec: "),
    (["common.modelzoo", "fetch", "resnet-153"], "", "resnet-153: not in the catalogue"),
    (
        ["common.modelzoo", "verify", "--model-dir", "test2017"],
        "",
        "test2017: holds no network",
    ),
]

WRONG_WITH = {
    "mxnet": [
        (FINE_TUNE, "--dtype float16", "--dtype float16: is for GPUs"),
        (FINE_TUNE, "--optimizer sgdd", "--optimizer sgdd: not one of MXNet's"),
        (FINE_TUNE, "--optimizer adamw", "--optimizer adamw: not one of MXNet's"),
        (FINE_TUNE, "--kv-store dist_sync", "--kv-store dist_sync: is started by cluster.sh"),
        (SUBMIT, "--dtype float16", "--dtype float16: is for GPUs"),
    ],
    "torch": [(FINE_TUNE, "--optimizer sgdd", "--optimizer sgdd: not one of PyTorch's")],
}


def rows_of(engine):
    """Return the rows for an engine; training and submission name it."""
    return [
        ([*command, "--engine", engine], *others)
        if command[0] in ("fine-tune.py", "sub.py")
        else (command, *others)
        for command, *others in [*WRONG, *WRONG_WITH[engine]]
    ]


@pytest.fixture
def place(challenge, tmp_path):
    """A new copy of the challenge, and the network `fixed`."""
    folder = workplace.copy(challenge, tmp_path / "data")
    save_network_of_fixed_size(str(folder / "fixed"))
    return folder


def save_network_of_fixed_size(prefix):
    """Save a network that takes images of 16 pixels or more, with weights for 224."""
    net = graph.Builder()
    body = net.add("Convolution", "conv0", net.variable("data"), num_filter=2, kernel=(3, 3))
    size = {"kernel": (14, 14), "stride": (14, 14)}
    body = net.add("Pooling", "pool0", body, pool_type="avg", **size)
    body = net.add("FullyConnected", "fc1", net.add("Flatten", None, body), num_hidden=4)
    body = net.add("FullyConnected", "fc2", body, num_hidden=6)
    fixed = net.graph(net.add("SoftmaxOutput", "softmax", body))
    checkpoint.save(prefix, 0, with_random_weights(fixed, 224, 1))


def fault(done):
    """Return what is wrong with how a command was refused; None if it was refused well, or ran."""
    if done.status is None or done.status < 0:
        return "hangs or dies"
    if "Traceback" in done.stderr or done.status not in (0, 2):
        return "fails"
    if done.memory > 1 << 30:
        return f"takes {done.memory >> 20} MB"
    lines = [line for line in done.stderr.splitlines() if "Node[0]" not in line]
    return "is more than one line" if done.status == 2 and len(lines) != 1 else None


def flags_of(scripts, place, command):
    """Return the flags that a script's `--help` shows."""
    name = command[: 2 if command[0] == "common.modelzoo" else 1]
    return re.findall(r"^  (--[a-z0-9-]+) ", scripts(place, *name, "--help").stdout, re.MULTILINE)


def try_numbers(scripts, place, command, pairs):
    """Return what went wrong with a command for each flag and number."""
    faults, before = [], workplace.contents(place)
    for flag, number in pairs:
        done = scripts(place, *command, f"{flag}={number}", seconds=40)
        after = workplace.contents(place)
        wrong = fault(done) or ("writes" if done.status and after != before else None)
        if wrong:
            faults.append((flag, number, wrong, done.status, done.stderr[-300:]))
        before = after
    return faults


@pytest.mark.parametrize("name", COMMANDS)
def test_a_number_that_makes_no_sense_is_one_line(name, place, scripts, seeded, cases):
    flags = flags_of(scripts, place, COMMANDS[name])
    pairs = [(flag, seeded.choice(NUMBERS)) for flag in seeded.sample(flags, min(4, len(flags)))]
    cases(len(pairs))
    assert try_numbers(scripts, place, COMMANDS[name], pairs) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_that_makes_no_sense_is_one_line(name, place, scripts, cases):
    command = COMMANDS[name]
    flags = [
        flag
        for flag in flags_of(scripts, place, command)
        if "'ten' is not a" in scripts(place, *command, f"{flag}=ten").stderr
    ]
    assert len(flags) >= LEAST.get(name.partition(" with ")[0], 1)
    pairs = [(flag, number) for flag in flags for number in NUMBERS]
    cases(len(flags) + len(pairs))
    assert try_numbers(scripts, place, command, pairs) == []


def try_rows(scripts, place, rows):
    """Return what went wrong with commands that must be refused, and must write nothing."""
    before, faults = workplace.contents(place), []
    for command, flags, expected in rows:
        done = scripts(place, *command, *flags.split(), seconds=20)
        if fault(done) or done.status != 2 or expected not in done.stderr:
            faults.append((flags, fault(done), done.status, done.stderr[-300:]))
    assert workplace.contents(place) == before
    return faults


def test_flags_that_contradict_what_is_there_are_one_line(engine, scripts, place, seeded, cases):
    rows = seeded.sample(rows_of(engine), 20)
    cases(len(rows))
    assert try_rows(scripts, place, rows) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["fine-tune.py", "sub.py", "mx_list.py", "im2rec.py", "modelzoo"]
)
def test_every_flag_that_contradicts_what_is_there_is_one_line(
    script, engine, scripts, place, cases
):
    rows = [row for row in rows_of(engine) if row[0][0].endswith(script)]
    cases(len(rows))
    assert try_rows(scripts, place, rows) == []
