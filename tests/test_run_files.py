"""The files of a run are written for the engine that trains."""

import argparse

from common import engines
from common.engines import TrainerState
from common.networks import Network, symbol_file
from common.networks.resnet import build_resnet
from common.training.run_files import RunFiles


def test_symbols_are_written_for_the_mxnet_of_the_engine(tmp_path, engine):
    engine = engines.load(engine)
    network = Network(build_resnet(10, 3, width=8), {}, {}, "fc1")
    prefix = str(tmp_path / "run")
    args = argparse.Namespace(
        model_prefix=prefix, num_epochs=1, top_k="5", ema=0.9, tensorboard=None, optimizer="sgd"
    )
    files = RunFiles(args, engine, network, 0)
    files.begin()
    files.save(1, TrainerState({}, {}, {}, average={}), {})
    text = symbol_file.seal(symbol_file.to_json(network.graph, engine.SYMBOL_VERSION))
    for name in ("run", "run-ema"):
        assert (tmp_path / f"{name}-symbol.json").read_text() == text
