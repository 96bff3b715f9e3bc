"""What each of several processes does: it trains networks on its rows of joint batches.

    torchrun --nproc-per-node 2 tests/engines/several_processes.py OUT.npz

The first process saves what all have in the end.
"""

import os
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from common.base.files import UserError
from common.base.script import run_script
from common.data.loader import Batch
from common.data.sampling import own_rows
from common.engines.torch.devices import parse_devices
from common.engines.torch.trainer import Trainer
from common.engines.torch.workers import Workers
from tests.engines import small_trainers as peer

SIZE = 10  # of the joint batch: four processes get 3, 3, 2 and 2 images
UPDATES = 20

# By name: the network, and the settings of its training.
CASES = {
    "sgd": (peer.plain_network, {"optimizer": "sgd"}),
    "adam": (peer.plain_network, {"optimizer": "adam", "optimizer_settings": {"wd": 1e-3}}),
    "bfloat16": (peer.plain_network, {"dtype": "bfloat16"}),
    "average": (peer.plain_network, {"average_decay": 0.9}),
    "frozen": (peer.plain_network, {"frozen": ["conv0_weight"]}),
    "joint statistics": (peer.smooth_network, {"sync_batch_norm": True}),
    # MXNet divides ten images in another way.
    "own statistics": (peer.smooth_network, {"batch_size": 8}),
}


def rows_of(batch, share):
    """Return a process's rows of a batch."""
    rows = own_rows(len(batch.labels), *share)
    return Batch(batch.images[rows], batch.labels[rows], batch.keys[rows], 0, [])


def train(case, devices, workers):
    """Train a case; return the arrays of a checkpoint, and the last probabilities."""
    network, settings = CASES[case]
    settings = {"batch_size": SIZE, **settings}
    size = settings["batch_size"]
    trainer = Trainer(network(), devices, peer.options(**settings), workers)
    for number in range(UPDATES):
        trainer.step(rows_of(peer.batch(number, size), workers.share), peer.RATE)()
    state = trainer.state()
    after = trainer.evaluate(rows_of(peer.batch(99, size), workers.share))
    arrays = {**state.params, **state.stats, **state.optimizer, "probabilities": after}
    arrays.update((f"average:{name}", array) for name, array in (state.average or {}).items())
    return arrays


def common(found):
    """Return the arrays that all processes share: all but the probabilities of their images."""
    return [array for name, array in found.items() if not name.endswith("/probabilities")]


def main(out):
    found = {}
    count = int(os.environ["WORLD_SIZE"])
    devices = parse_devices(",".join(f"cpu:{number}" for number in range(count)))
    workers = Workers("device", devices)
    with pytest.raises(UserError, match="--optimizer sgld: each process draws other noise"):
        Trainer(peer.plain_network(), devices, peer.options(optimizer="sgld"), workers)
    for case in CASES:
        arrays = train(case, devices, workers)
        found.update((f"{case}/{name}", array) for name, array in arrays.items())
    firsts = [workers.sum(array if not workers.rank else 0 * array) for array in common(found)]
    differ = [not np.array_equal(*pair) for pair in zip(firsts, common(found))]
    assert not any(differ), "the processes have drifted apart"
    if not workers.rank:
        np.savez(out, **found)
    workers.close()


if __name__ == "__main__":
    run_script(lambda: main(*sys.argv[1:]))
