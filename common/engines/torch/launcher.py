"""One process for each device: PyTorch's launcher (torchrun) runs the script again in each."""

import logging
import os
import signal
import sys
import tempfile

from common.base import script
from common.base.files import UserError
from common.base.processor import usable_cores
from common.engines.torch.runtime import torch

_STOPPED = {*(128 + number for number in (signal.SIGINT, signal.SIGTERM)), -signal.SIGTERM}


def is_launched():
    """Return whether this process is one of several that PyTorch's launcher has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(devices):
    """Run this script in a process for each device, and wait for all of them.

    The processes of several machines find each other by torchrun's own variables (`PET_NNODES`,
    `PET_NODE_RANK`, …), which cluster.sh sets. `PET_MAX_RESTARTS` says how often all processes are
    started again after one has failed.

    Returns:
        the exit status; None where this process trains itself.

    Raises:
        UserError: this PyTorch has no torch.distributed.
        KeyboardInterrupt: a signal has stopped them.
    """
    is_of_several = "PET_NNODES" in os.environ
    if is_launched() or (len(devices) == 1 and not is_of_several):
        return None
    if not torch.distributed.is_available():
        raise UserError("--gpus: this PyTorch is built without torch.distributed; name one device")
    from torch.distributed import run as torchrun  # takes a second
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // len(devices))))
    logging.disable()  # the launcher's own words: _explain has better ones
    with tempfile.TemporaryDirectory() as folder:
        where = [] if is_of_several else ["--standalone"]
        flags = [*where, f"--nproc-per-node={len(devices)}", f"--log-dir={folder}"]
        try:
            torchrun.run(torchrun.parse_args([*flags, "--", *sys.argv]))
        except ChildFailedError as error:
            return _explain(error.failures, devices)
        except SignalException as request:
            is_ctrl_c = request.sigval == signal.SIGINT  # else SIGTERM, or the terminal is gone
            script.stop(signal.SIGINT if is_ctrl_c else signal.SIGTERM)
    return 0


def _explain(failures, devices):
    """Print why the first process failed that did; return its exit status."""
    rank, failure = min(failures.items(), key=lambda item: _order(item[1]))
    if os.path.exists(failure.error_file):
        sys.stderr.write(failure.message["message"])
        return failure.exitcode
    status = failure.exitcode
    how = f"status {status}" if status > 0 else signal.Signals(-status).name
    device = devices[failure.local_rank]
    script.complain(f"process {rank} ({device}) ended with {how}: all others were stopped")
    return status if status > 0 else 128 - status


def _order(failure):
    """Causes before consequences: who says a reason, who was killed, who was told to stop."""
    return not os.path.exists(failure.error_file), failure.exitcode in _STOPPED
