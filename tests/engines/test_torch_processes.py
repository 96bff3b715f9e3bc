"""Several processes, one for each device, train as one does with the joint batch."""

import os
import subprocess
import sys

import numpy as np
import pytest

from common.engines.torch.workers import Workers
from tests.conftest import ROOT
from tests.engines import several_processes
from tests.engines import small_trainers as peer

JOINT = [name for name in several_processes.CASES if name != "own statistics"]


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    """What that many processes have in the end: `{"case/array": array}`, and their number."""
    folder = tmp_path_factory.mktemp("processes")
    out = folder / "out.npz"
    script = os.path.join(ROOT, "tests", "engines", "several_processes.py")
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--log-dir={folder}",
    ]
    command = [*torchrun, f"--nproc-per-node={request.param}", script, str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return request.param, dict(np.load(out))


def arrays_of(case, found):
    return {
        key.split("/", 1)[1]: value for key, value in found.items() if key.split("/")[0] == case
    }


@pytest.mark.parametrize("case", JOINT)
def test_twenty_updates_are_those_of_one_process_with_the_joint_batch(found, case):
    count, arrays = found
    got = arrays_of(case, arrays)
    expected = several_processes.train(case, peer.CPU, Workers("device", peer.CPU))
    first = len(got.pop("probabilities"))
    probabilities = expected.pop("probabilities")
    tolerance = 0.02 if case == "bfloat16" else 1e-4
    assert first == -(-several_processes.SIZE // count)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=tolerance, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(
        arrays_of(case, arrays)["probabilities"], probabilities[:first], atol=tolerance
    )


def test_without_sync_batch_norm_each_process_normalises_its_part_as_mxnets_devices_do(found):
    count, arrays = found
    network = peer.smooth_network()
    theirs = peer.make_mxnets(network, count)
    for number in range(several_processes.UPDATES):
        theirs.step(peer.batch(number), peer.RATE)()
    expected = theirs.state()
    got = arrays_of("own statistics", arrays)
    for kind, start in ((expected.params, network.params), (expected.stats, network.stats)):
        peer.assert_close({name: got[name] for name in kind}, kind, start, share=1e-3)
