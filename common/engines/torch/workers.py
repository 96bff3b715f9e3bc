"""The workers that train together: with this engine one, on one machine."""

from common.base.files import UserError


class Workers:
    """One worker.

    Attributes:
        rank: the number of this worker among all.
        size: how many workers train together.
        is_async: whether servers make the updates by themselves.
    """

    rank, size, is_async = 0, 1, False

    def __init__(self, kind, devices):
        """Check the name of MXNet's KVStore, which `--kv-store` gives.

        Raises:
            UserError: it is for several machines, or for other devices.
        """
        if kind.startswith("dist"):
            raise UserError(
                f"--kv-store {kind}: --engine torch trains on one machine; use --engine mxnet"
            )
        if kind == "nccl" and devices[0].type != "cuda":
            raise UserError("--kv-store nccl: is for GPUs; take device")

    def agree(self, value):
        """Return the first worker's value of a number."""
        return value
