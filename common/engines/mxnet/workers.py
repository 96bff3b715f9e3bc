"""The workers that train together: which of them this is, and what shares their gradients."""

import itertools
import os

from common.base.files import UserError
from common.engines.mxnet.devices import has_feature, has_gpu
from common.engines.mxnet.runtime import mx


def launch(devices):
    """Return None: MXNet trains on all devices of a machine in this process."""


class Workers:
    """This worker among all: the only one, or one of several in MXNet's distributed KVStore.

    Attributes:
        rank: the number of this worker among all; 0 is the one that validates and writes.
        size: how many workers train together.
        machine, num_machines: the same numbers: there is one worker on each machine.
        share: `(number, count)` of this process among those that share a machine's batches.
        kv_store: what shares the gradients: a distributed KVStore, or the name of a local one.
        is_distributed: whether `kv_store` is a distributed one.
        is_async: whether its servers make the updates by themselves.
        is_joint: whether scores are summed over all workers, who then validate together.
    """

    share, is_joint = (0, 1), False

    def __init__(self, kind, devices):
        """Join the workers of the KVStore of this name.

        Raises:
            UserError: these devices cannot share gradients in that way, or the other workers were
                not started.
        """
        if kind == "nccl" and not (has_gpu(devices) and has_feature("NCCL")):
            raise UserError("--kv-store nccl: is for GPUs and an MXNet with NCCL; take device")
        self.is_distributed = kind.startswith("dist")
        self.is_async = kind == "dist_async"
        self.kv_store = kind
        if self.is_distributed:
            if "DMLC_ROLE" not in os.environ:
                raise UserError(
                    f"--kv-store {kind}: is started by cluster.sh (sh cluster.sh --help)"
                )
            self.kv_store = mx.kvstore.create(kind)
        self._agreements = itertools.count()
        self.rank = getattr(self.kv_store, "rank", 0)
        self.size = getattr(self.kv_store, "num_workers", 1)
        self.machine, self.num_machines = self.rank, self.size

    def agree(self, value):
        """Return the first worker's value of a number; call it as often in every worker."""
        if self.size == 1:
            return value
        key, firsts = f"agreed{next(self._agreements)}", mx.nd.zeros((1,))  # a key begins once
        self.kv_store.init(key, mx.nd.array([value]))  # the first worker's is the one that counts
        self.kv_store.pull(key, out=firsts)
        return firsts.asscalar()

    def sum(self, numbers):
        """Return this worker's numbers: each counts its own images."""
        return numbers

    def close(self):
        """Do nothing: MXNet's workers end by themselves."""
