"""The workers that train together: which of them this is, and what shares their gradients."""

import logging
import os

from common.files import UserError
from common.find_mxnet import mx


def make_kv_store(name):
    """Return what shares the gradients: a distributed KVStore, or the name of a local one."""
    if not name.startswith("dist"):
        return name
    if "DMLC_ROLE" not in os.environ:
        raise UserError(f"--kv-store {name}: is started by cluster.sh (sh cluster.sh --help)")
    return mx.kvstore.create(name)


def start_log(kv_store):
    """Send log lines to stderr, each with its time and the rank of its machine."""
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)-15s Node[{rank(kv_store)}] %(message)s",
        force=True,
    )


def rank(kv_store):
    """The number of this worker among all; 0 is the one that validates and writes."""
    return getattr(kv_store, "rank", 0)


def num_workers(kv_store):
    """How many workers train together."""
    return getattr(kv_store, "num_workers", 1)


def check_same_epoch(kv_store, begin_epoch):
    """Raise `UserError` where this worker begins at another epoch than the first one does."""
    if num_workers(kv_store) == 1:
        return
    key, ours, firsts = "begin_epoch", mx.nd.array([begin_epoch]), mx.nd.zeros((1,))
    kv_store.init(key, ours)  # the first worker's value is the one that counts
    kv_store.pull(key, out=firsts)
    if firsts.asscalar() != begin_epoch:
        raise UserError(
            f"worker {rank(kv_store)} has a checkpoint of epoch {begin_epoch}, the first worker one"
            f" of epoch {firsts.asscalar():.0f}; copy the files of --model-prefix to every machine"
        )
