"""Checkpoints: written whole or not at all, found, checked and read."""

import os
import pickle

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import Network, checkpoint, edits
from common.networks.graph import Builder, arguments, auxiliary_states
from tests.conftest import ROOT, limit_file_size


def tiny_network(epoch):
    net = Builder()
    graph = net.graph(edits.classify(net, net.variable("data"), 2, "fc1"))
    weights = {"fc1_weight": np.full((2, 3), epoch, np.float32), "fc1_bias": np.zeros(2, "f")}
    return Network(graph, weights, {}, "fc1")


@pytest.fixture
def saved(tmp_path):
    """The prefix of three checkpoints of a tiny network, with states."""
    prefix = str(tmp_path / "net-1")  # a dash and digits in the name are no epoch
    for epoch in (1, 2, 10):
        states = {"state:fc1_weight/0": np.full((2, 3), epoch, np.float32)}
        checkpoint.save(prefix, epoch, tiny_network(epoch), states)
    return prefix


def test_mxnet_reads_what_is_saved(mx, saved):
    symbol, arg_params, aux_params = mx.model.load_checkpoint(saved, 10)
    assert symbol.list_outputs() == ["softmax_output"]
    assert (arg_params["fc1_weight"].asnumpy() == 10).all()
    assert aux_params == {}


@pytest.mark.parametrize("versions", [(10500, 10901), (10901, 10500)])
def test_a_checkpoint_is_written_for_the_mxnet_that_is_asked_for(saved, versions):
    for version in versions:
        checkpoint.save(saved, 1, tiny_network(1), version=version)
        with open(checkpoint.symbol_path(saved), encoding="utf-8") as stream:
            assert f'"mxnet_version": ["int", {version}]' in stream.read()
        assert checkpoint.load(saved, 1).params.keys() == {"fc1_weight", "fc1_bias"}


def test_what_mxnet_saved_is_read(mx, peer, tmp_path):
    prefix = str(tmp_path / "theirs")
    symbol = peer.build_resnet(10, 3, width=8)
    mx.model.save_checkpoint(
        prefix, 4, symbol, {"fc1_bias": mx.nd.ones((3,))}, {"bn0_moving_var": mx.nd.ones((8,))}
    )
    network = checkpoint.load(prefix, 4)
    assert list(network.params) == ["fc1_bias"]
    assert list(network.stats) == ["bn0_moving_var"]
    assert arguments(network.graph) == symbol.list_arguments()


def test_epochs_are_found_by_their_names(saved, tmp_path):
    for name in (
        "net-1-best.params",
        "net-1-0003.states",
        "net-12-0004.params",
        "net-1-ema-0005.params",
    ):
        (tmp_path / name).write_text("")
    assert checkpoint.find_epochs(saved) == [1, 2, 10]
    assert checkpoint.newest_whole(saved) == (10, [])


@pytest.mark.parametrize("suffix", ["params", "states"])
def test_the_newest_whole_checkpoint_is_chosen(saved, suffix):
    os.truncate(f"{saved}-0010.{suffix}", 50)
    epoch, complaints = checkpoint.newest_whole(saved)
    assert epoch == 2
    assert len(complaints) == 1
    assert f"net-1-0010.{suffix}" in complaints[0]
    with pytest.raises(UserError, match=f"net-1-0010.{suffix}"):
        checkpoint.load(saved, 10)
        checkpoint.load_states(saved, 10)


def test_what_the_log_does_not_tell_of_is_an_earlier_runs(saved):
    epoch, complaints = checkpoint.newest_whole(saved, last=2)
    assert epoch == 2
    assert complaints == [f"{saved}-0010.params: of an earlier run, as the log ends at epoch 2"]
    assert checkpoint.newest_whole(saved, last=0)[0] == 0


def test_checkpoints_of_which_none_can_be_read_are_no_beginning(saved):
    os.remove(f"{saved}-symbol.json")
    with pytest.raises(UserError) as error:
        checkpoint.newest_whole(saved)
    assert str(error.value).startswith(f"{saved}-symbol.json: not found; ")
    assert str(error.value).endswith(
        f". No checkpoint of {saved} can be resumed: repair this one, or begin another run with"
        " another --model-prefix"
    )
    for epoch in (1, 2, 10):
        os.remove(f"{saved}-{epoch:04d}.params")
    assert checkpoint.newest_whole(saved) == (0, [])


@pytest.mark.parametrize("writer", ["mxnet-1.5.0", "mxnet-1.9.1"])
def test_a_checkpoint_that_an_mxnet_wrote_is_read(writer):
    network = checkpoint.load(os.path.join(ROOT, "tests", "faults", "old", writer), 1)
    assert set(network.params) == set(arguments(network.graph)) - {"data", "softmax_label"}
    assert set(network.stats) == set(auxiliary_states(network.graph))


def test_an_epoch_that_is_not_there_names_those_that_are(saved):
    with pytest.raises(UserError, match="not found; epochs that are there: 1, 2, 10"):
        checkpoint.load(saved, 3)


def test_the_newest_and_the_best_stay(saved):
    checkpoint.prune(saved, keep=1, newest=10, best=2)
    assert checkpoint.find_epochs(saved) == [2, 10]
    assert checkpoint.find_epochs(saved, "states") == [2, 10]


def test_a_run_removes_no_checkpoint_but_its_own(saved):
    os.rename(f"{saved}-0002.params", f"{saved}-0000.params")  # a pretrained network
    checkpoint.prune(saved, keep=1, newest=3)
    assert checkpoint.find_epochs(saved) == [0, 10]
    assert checkpoint.find_epochs(saved, "states") == [10]


def test_states_are_arrays_and_no_pickle(saved):
    states = checkpoint.load_states(saved, 2)
    np.testing.assert_array_equal(states["state:fc1_weight/0"], np.full((2, 3), 2.0))
    assert checkpoint.load_states(saved, 7) == {}


def test_states_that_could_run_code_are_not_read(saved):
    with open(checkpoint.states_path(saved, 2), "wb") as stream:
        pickle.dump({0: "anything"}, stream)
    with pytest.raises(UserError, match=r"0002.states: is a pickle.* remove it to continue"):
        checkpoint.load_states(saved, 2)


def test_weights_that_are_no_numbers_are_named(saved):
    network = checkpoint.load(saved, 2)
    network.params["fc1_weight"][1, 1] = np.inf
    checkpoint.save(saved, 3, network)
    with pytest.raises(UserError, match=r"0003.params: arg:fc1_weight holds NaN or infinite value"):
        checkpoint.load(saved, 3)


def test_a_folder_in_the_place_of_a_checkpoint_is_found_before_the_training(saved):
    checkpoint.require_targets(saved)
    os.mkdir(checkpoint.states_path(saved, 12))
    with pytest.raises(UserError, match=r"0012.states: is a folder"):
        checkpoint.require_targets(saved)


def test_a_full_disk_leaves_the_older_checkpoints(saved, python):
    done = python(
        f"""
        import numpy as np
        from common.networks import checkpoint
        from common.base.script import run_script
        network = checkpoint.load({saved!r}, 10)
        big = network.with_arrays({{"fc1_weight": np.ones((100, 100), np.float32)}}, {{}})
        run_script(lambda: checkpoint.save({saved!r}, 11, big))
        """,
        preexec_fn=limit_file_size,
    )
    assert done.returncode == 2
    assert "net-1-0011.params" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.newest_whole(saved) == (10, [])
    assert not os.path.exists(f"{saved}-0011.params")


def gluon_network(mx, folder, **names):
    """The prefix of an exported symbol, and the Gluon network that it is of."""
    block = mx.gluon.nn.HybridSequential(**names)
    with block.name_scope():
        block.add(mx.gluon.nn.Conv2D(2, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.Dense(3))
    block.initialize()
    block.hybridize()
    block(mx.nd.zeros((1, 3, 8, 8)))
    block.export(str(folder / "net"))
    return str(folder / "net"), block


@pytest.mark.parametrize("strip", [False, True])
def test_gluons_bare_names_are_sorted_by_the_symbol(mx, tmp_path, strip):
    prefix, block = gluon_network(mx, tmp_path)
    expected = checkpoint.load(prefix, 0)
    stripped = {"strip_prefix": block.prefix} if strip else {}
    block.collect_params().save(f"{prefix}-0001.params", **stripped)
    found = checkpoint.load(prefix, 1)
    for ours, theirs in ((found.params, expected.params), (found.stats, expected.stats)):
        assert sorted(ours) == sorted(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert len(found.stats) == 2  # the running mean and variance


def test_gluons_names_of_another_number_are_those_of_the_symbol(mx, tmp_path):
    prefix, _ = gluon_network(mx, tmp_path, prefix="net0_")
    (tmp_path / "other").mkdir()
    _, block = gluon_network(mx, tmp_path / "other", prefix="net1_")
    block.collect_params().save(f"{prefix}-0001.params")
    network = checkpoint.load(prefix, 1)
    assert {*network.params, *network.stats, "data", "softmax_label"} == {
        *arguments(network.graph),
        *auxiliary_states(network.graph),
    }


def test_names_that_are_not_the_symbols_are_reported_with_the_way_out(mx, tmp_path):
    prefix, block = gluon_network(mx, tmp_path, prefix="net_")
    block.save_parameters(f"{prefix}-0001.params")
    with pytest.raises(
        UserError,
        match=r"net-0001\.params: its names are not those of the symbol: 8 are missing"
        r" \(net_conv0_weight, .*8 are others \(0\.weight, .*net\.export\(PREFIX\)",
    ):
        checkpoint.load(prefix, 1)
