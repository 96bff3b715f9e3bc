"""The peers that predict with an ONNX file: run by a Python that has ONNX Runtime or OpenVINO.

    TORCH_PYTHON -m benchmarks.onnx_peer onnxruntime NETWORK.onnx --dtype int8
    TORCH_PYTHON -m benchmarks.onnx_peer openvino NETWORK.onnx --dtype bfloat16

The benchmarks start it; it then works for each line of its standard input (`benchmarks/sides.py`).
A runtime gets all cores, and of its settings (what is quantized, how batches share the cores) those
that are the fastest here: each is tried once at the start.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time

import numpy as np

from benchmarks.sides import serve
from common.base.memory import keep_all_freed_memory
from common.base.processor import usable_cores

CALIBRATION_IMAGES = 4  # as many as benchmarks/predict_rate.py calibrates on


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("network", help="`data` (N, 3, H, W) float32 RGB -> probabilities")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8"], default="float32")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=1, help="per request")
    args = parser.parse_args()
    keep_all_freed_memory()
    shape = (args.batch_size, 3, args.size, args.size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with contextlib.redirect_stdout(sys.stderr):  # the tools for int8 print their progress
        candidates, versions = RUNTIMES[args.runtime](args, images)
    predict = fastest(candidates, args.batches)

    def work():
        predict(args.batches)
        return args.batch_size * args.batches, []

    serve(work, versions)


def fastest(candidates, batches):
    """Return the fastest of some functions that predict a number of batches."""
    seconds = []
    for predict in candidates:
        predict(batches)  # plans its layers
        start = time.perf_counter()
        predict(batches)
        seconds.append(time.perf_counter() - start)
    return candidates[seconds.index(min(seconds))]


# --- ONNX Runtime -------------------------------------------------------------------------------


def use_onnxruntime(args, images):
    """Return functions that predict a number of batches, and `{title: version}`."""
    import onnxruntime

    if args.dtype == "bfloat16":
        raise SystemExit("has no bfloat16 on x86 processors")
    with tempfile.TemporaryDirectory() as folder:
        paths = [args.network]
        if args.dtype == "int8":
            paths = quantize_by_onnxruntime(args.network, images[:CALIBRATION_IMAGES], folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        sessions = [
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in paths
        ]

    def predicts(session):
        def predict(batches):
            for _ in range(batches):
                session.run(None, {"data": images.astype(np.float32)})

        return predict

    return [*map(predicts, sessions)], {"ONNX Runtime": onnxruntime.__version__}


def quantize_by_onnxruntime(path, images, folder):
    """Write a network in int8: with all layers quantized, and only those that multiply matrices."""
    from onnxruntime import quantization

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = [{"data": images.astype(np.float32)}]

        def get_next(self):
            return self.batches.pop() if self.batches else None

    prepared = os.path.join(folder, "prepared.onnx")
    quantization.quant_pre_process(path, prepared)
    paths = []
    for operators in (None, ["Conv", "Gemm", "MatMul"]):
        paths.append(os.path.join(folder, f"{len(paths)}.onnx"))
        quantization.quantize_static(
            prepared,
            paths[-1],
            Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=operators,
        )
    return paths


# --- OpenVINO -----------------------------------------------------------------------------------


def use_openvino(args, images):
    """Return functions that predict a number of batches, and `{title: version}`."""
    import openvino

    core, versions = openvino.Core(), {"OpenVINO": openvino.__version__.partition("-")[0]}
    network = core.read_model(args.network)
    precision = {"INFERENCE_PRECISION_HINT": "bf16" if args.dtype == "bfloat16" else "f32"}
    if args.dtype == "int8":
        import nncf

        precision = {}  # of the layers that are not int8: as OpenVINO chooses
        calibration = nncf.Dataset([images[:CALIBRATION_IMAGES].astype(np.float32)])
        network = nncf.quantize(network, calibration, subset_size=1)
        versions["NNCF"] = nncf.__version__
    network.reshape({"data": images.shape})

    def predicts(hint):
        compiled = core.compile_model(network, "CPU", {**precision, "PERFORMANCE_HINT": hint})
        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(lambda request, _: request.get_output_tensor(0).data.copy())

        def predict(batches):
            for _ in range(batches):
                queue.start_async({"data": images.astype(np.float32)})
            queue.wait_all()

        return predict

    return [predicts(hint) for hint in ("LATENCY", "THROUGHPUT")], versions


RUNTIMES = {"onnxruntime": use_onnxruntime, "openvino": use_openvino}

if __name__ == "__main__":
    main()
