"""benchmarks/choices.py: its runs, its table, and its peer in PyTorch, which begins as ours."""

import importlib
import signal
import sys

import numpy as np
import pytest

from benchmarks import choices, compare
from benchmarks.made_up import encode, make_photograph, write_records
from common.base.files import UserError
from common.networks import checkpoint, torch_networks
from tests.conftest import only


def run(top1, loss=1.0):
    return {"val_top1": top1, "val_loss": loss, "seconds": 9.0}


RUNS = {
    "plain": {"0": run(0.6), "1": run(0.7), "2": run(0.65)},
    "mixup": {"0": run(0.61, 0.5), "1": run(0.71, 0.75), "2": run(0.66, 1)},
    "pytorch": {"1": run(0.69), "0": run(0.62)},
    "pytorch-nchw": {"1": run(0.7)},
}

NAMES = {  # of some parameters: PyTorch's and ours
    "conv_stem.weight": "stem_conv_weight",
    "blocks.3.1.conv_dw.weight": "block6_depthwise_conv_weight",
    "bn2.weight": "head_bn_gamma",
    "classifier.weight": "fc1_weight",
    "classifier.bias": "fc1_bias",
}


def test_the_training_pictures_have_a_long_tail():
    counts = choices.long_tail(16)
    assert (counts[0], counts[-1], sum(counts)) == (380, 38, 2441)
    assert counts == sorted(counts, reverse=True)


def test_the_runs_that_are_left_go_seed_by_seed():
    left = choices.pending(RUNS, ["0", "3"], ["plain", "pytorch-nchw"])
    assert left == [("pytorch-nchw", "0"), ("plain", "3"), ("pytorch-nchw", "3")]


def test_the_interval_is_students():
    """t(4) = 2.776; of 0 to 4 the standard deviation is sqrt(2.5)."""
    assert choices.interval([0, 1, 2, 3, 4]) == (2, pytest.approx(2.776 * np.sqrt(2.5 / 5)))
    assert np.isnan(choices.interval([7])[1])


def test_the_table_has_the_differences_between_the_runs_of_a_seed():
    rows = choices.table(RUNS).splitlines()[2:]
    assert rows == [
        "| plain |  | 3 | 65.0 ± 12.4 |  | 1.000 ± 0.000 |  |",
        "| `--mixup 0.2` | plain | 3 | 66.0 ± 12.4 | **+1.0 ± 0.0** | 0.750 ± 0.621 |"
        " -0.250 ± 0.621 |",
        "| plain, PyTorch in NHWC | plain | 2 | 65.5 ± 44.5 | +0.5 ± 19.1 | 1.000 ± 0.000 |"
        " +0.000 ± 0.000 |",
        "| plain, PyTorch in NCHW | plain, PyTorch in NHWC | 1 | 70.0 | +1.0 | 1.000 | +0.000 |",
    ]


def test_without_pytorch_computing_what_needs_it_is_left_out(capsys):
    class Engine:
        NAME = "MXNet"

    assert choices.able(["plain", "adamw", "pytorch"], Engine) == ["plain"]
    assert "pytorch is left out: needs --engine torch" in capsys.readouterr().out


def test_runs_of_other_devices_are_not_mixed(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "QUICK_RESULTS", str(tmp_path))
    compare.write_result("choices", {"setup": {"engine": "MXNet", "gpus": "7"}}, quick=True)
    flags = ["--quick", "--data", str(tmp_path), "--engine", engine]
    monkeypatch.setattr(sys, "argv", ["choices", *flags])
    with pytest.raises(UserError, match="its runs are of another engine or device"):
        choices.main()


@only("torch")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_peer_begins_with_our_weights_and_makes_our_first_update(
    engine, optimizer, script, monkeypatch, tmp_path
):
    """With the same order of the arrays in memory: another one rounds otherwise."""
    from benchmarks import torch_fine_tune as peer

    photographs = [encode(make_photograph(seed, 64, 64)) for seed in range(8)]
    for part in ("train", "val"):
        write_records(tmp_path / part, photographs, [0, 1, 2, 3] * 2)
    save_lite0(peer, tmp_path / "lite0")
    flags = f"""--data-dir {tmp_path} --pretrained-model {tmp_path}/lite0 --image-shape 3,64,64
        --batch-size 8 --num-epochs 1 --lr-step-epochs= --seed 3 --optimizer {optimizer}
        --lr 0.001 --wd {0.1 if optimizer == "adamw" else 0} --initial-validation 0
        --model-prefix {tmp_path}/net --data-nthreads 1 --gpus cpu""".split()
    script("fine-tune.py", *flags, "--engine", engine)
    ours = checkpoint.load(str(tmp_path / "net"), 1)

    monkeypatch.setattr(sys, "argv", ["fine-tune.py", *flags])
    args = parse_args()
    network = peer.make_network(args.pretrained_model, 4, args.seed)
    network.to(memory_format=peer.torch.channels_last)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    data = peer.batches.open_batches(args)
    peer.train(network, data.train, args)
    data.close()
    for name, mine in NAMES.items():
        theirs, began = network.get_parameter(name).detach(), before[name]
        update, gap = theirs - began, theirs - peer.torch.from_numpy(ours.params[mine])
        assert update.abs().max() > 1e-5
        assert gap.norm() < 0.01 * update.norm()


def parse_args():
    """Parse the flags as the peer does, and leave the signals as they were."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    args = importlib.import_module("fine-tune").parse_args()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return args


def save_lite0(peer, prefix):
    """Save an EfficientNet-Lite0 of random weights as the import writes it."""
    peer.torch.manual_seed(0)
    state = peer.Lite0(tensorflow=True).state_dict()
    state = {name: tensor.numpy() for name, tensor in state.items()}
    network = torch_networks.build(torch_networks._rename_timm(state))
    checkpoint.save(str(prefix), 0, network)
