"""The processes that train together: one for each device, connected by torch.distributed."""

import contextlib
import datetime
import os

import numpy as np

from common.base.files import UserError
from common.base.script import end_with_parent
from common.engines.torch.contact import Heartbeat, connect, until_ended
from common.engines.torch.launcher import is_launched
from common.engines.torch.runtime import torch

# A process may have to wait while the first one writes a checkpoint; `Heartbeat` finds one that
# hangs much earlier.
_LONGEST_WAIT = datetime.timedelta(minutes=30)


class Workers:
    """This process among all that train together.

    Attributes:
        rank: the number of this process among all; 0 is the one that logs and writes.
        size: how many processes train together.
        machine, num_machines: the number of this machine among all, and how many there are.
        share: `(number, count)` of this process among those that share a machine's batches.
        device: of this process.
        is_async: whether servers make the updates by themselves.
        is_joint: whether scores are summed over all workers, who then validate together.
    """

    is_async, is_joint = False, True

    def __init__(self, kind, devices):
        """Join the others; `kind` is the name of an MXNet KVStore, which `--kv-store` gives.

        Raises:
            UserError: the KVStore means something that this engine lacks, or other processes than
                the flags say have been started.
        """
        launched = os.environ if is_launched() else {}

        def number(name, default):
            return int(launched.get(name, default))

        self.rank, self.size = number("RANK", 0), number("WORLD_SIZE", 1)
        self.machine, self.num_machines = number("GROUP_RANK", 0), number("GROUP_WORLD_SIZE", 1)
        self.share = number("LOCAL_RANK", 0), number("LOCAL_WORLD_SIZE", 1)
        _check(kind, devices, launched, self)
        self.device = devices[self.share[0]]
        if self.device.type == "cuda":  # else pinned memory would take a part of the first GPU's
            torch.cuda.set_device(self.device)
        self._heartbeat = None
        if self.size > 1:
            self._join()

    def _join(self):
        end_with_parent()
        on_gpu = self.device.type == "cuda"
        launcher_hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        with until_ended():
            store = connect(is_host=self.rank == 0 and not launcher_hosts)
            self._heartbeat = Heartbeat(self.rank, self.size, self.device)
            torch.distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=_LONGEST_WAIT,
            )

    def until_ended(self):
        """Return a context for what waits for other processes: see `contact.until_ended`."""
        return until_ended() if self.size > 1 else contextlib.nullcontext()

    def agree(self, value):
        """Return the first worker's value of a number; call it in every worker."""
        return self.sum([value if self.rank == 0 else 0])[0]

    def sum(self, numbers):
        """Return the sums of a list of numbers over all workers, float64; call it in every one."""
        tensor = torch.tensor(np.asarray(numbers, np.float64))
        if self.size > 1:
            with until_ended():
                torch.distributed.all_reduce(tensor)
        return tensor.numpy()

    def average(self, tensors):
        """Replace tensors of one device by their means over all workers; call it in every one."""
        if self.size == 1 or not tensors:
            return
        joined = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with until_ended():
            torch.distributed.all_reduce(joined)
        parts = (joined / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts):
            tensor.copy_(part.reshape(tensor.shape))

    def share_gradients(self, module):
        """Return a module with which every backward pass averages the gradients over all workers.

        They are sent in groups, while earlier layers are computed. All begin with the weights of
        the first worker.
        """
        if self.size == 1:
            return module
        with until_ended():
            shared = torch.nn.parallel.DistributedDataParallel(
                module, gradient_as_bucket_view=True, static_graph=True
            )
        shared.broadcast_buffers = False  # each process has its own statistics; see `average`
        return shared

    def close(self):
        """Wait until all workers have finished; call it where nothing went wrong."""
        if self.size > 1:
            self.sum([0])
            self._heartbeat.close()
            torch.distributed.destroy_process_group()


def _check(kind, devices, launched, workers):
    """Raise `UserError` where `--kv-store`, the devices and the processes do not fit together."""
    if kind == "dist_async":
        raise UserError("--kv-store dist_async: --engine torch has none; take dist_sync")
    if kind == "nccl" and devices[0].type != "cuda":
        raise UserError("--kv-store nccl: is for GPUs; take device")
    is_of_several = "PET_NNODES" in launched or workers.num_machines > 1
    if kind.startswith("dist") and not is_of_several:
        if "DMLC_ROLE" in os.environ:  # its flags did not say that the run takes PyTorch
            raise UserError(
                f"--kv-store {kind}: cluster.sh has started MXNet's processes, and this run needs"
                " PyTorch's; add --engine torch to the command of cluster.sh"
            )
        raise UserError(f"--kv-store {kind}: is started by cluster.sh (sh cluster.sh --help)")
    if not kind.startswith("dist") and workers.num_machines > 1:
        raise UserError(f"--kv-store {kind}: is for one machine; take dist_sync")
    count = workers.share[1]
    if len(devices) != count:
        raise UserError(
            f"--gpus: names {len(devices)} device(s), and {count} process(es) were started on this"
            " machine; each process takes one device"
        )
