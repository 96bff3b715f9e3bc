"""A challenge of 21 photographs and a network of two epochs for sub.py, and a peer's answer."""

import csv
import json
import os

import cv2
import numpy as np
import pytest

from common import engines
from common.data.annotations import find_image
from common.data.image import decode, eval_image
from common.networks import checkpoint
from common.networks.edits import take_raw_images
from common.networks.export import export_onnx
from common.networks.resnet import build_resnet
from tests.random_networks import for_raw_images, with_random_weights

CATEGORY_IDS = [10, 20, 30, 40, 50, 60]
SIZE = 32


def paint(path, seed):
    """Make a photograph of a few coloured patches."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    cv2.imwrite(path, cv2.resize(patches, (80, 64), interpolation=cv2.INTER_CUBIC))


def write_json(path, names, labelled):
    images = [{"id": 100 + i, "file_name": name} for i, name in enumerate(names)]
    categories = [{"id": i, "name": f"n{i}", "supercategory": f"s{i % 20}"} for i in CATEGORY_IDS]
    content = {"images": images, "categories": categories}
    if labelled:
        content["annotations"] = [
            {"id": i, "image_id": image["id"], "category_id": CATEGORY_IDS[i % 6]}
            for i, image in reversed(list(enumerate(images)))
        ]
    path.write_text(json.dumps(content))


def save_network(prefix, epoch, num_classes=6, width=16):
    """Save a network of random weights for photographs of 0 to 255."""
    graph = take_raw_images(build_resnet(10, num_classes, width))
    network = for_raw_images(with_random_weights(graph, SIZE, epoch))
    checkpoint.save(prefix, epoch, network)


def make_folder(folder, save=save_network):
    """Lay out 12 validation and 9 test photographs, half of them in test2017/, and 2 epochs."""
    val = [f"train_val_images/s/n/v{i}.jpg" for i in range(12)]
    test = [f"{'test2017/' if i % 2 else ''}t{i}.jpg" for i in range(9)]
    for seed, name in enumerate(val):
        paint(str(folder / name), seed)
    for seed, name in enumerate(test):
        paint(str(folder / "test2017" / os.path.basename(name)), 100 + seed)
    write_json(folder / "val2017.json", val, labelled=True)
    write_json(folder / "test2017.json", test, labelled=False)
    (folder / "train.lst").write_text("".join(f"{i}\t{min(i, 5)}.0\tx.jpg\n" for i in range(9)))
    for epoch in (1, 2):
        save(str(folder / "net"), epoch)
    return folder


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return {
            int(row["id"]): list(map(int, row["predicted"].split()))
            for row in csv.DictReader(stream)
        }


def pixels(folder, set_name):
    """The images of a set as the network sees them, (N, 3, H, W), read one by one."""
    content = json.loads((folder / f"{set_name}2017.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    images = []
    for name in names:
        with open(find_image(str(folder), name), "rb") as stream:
            image = eval_image(decode(stream.read()), SIZE, SIZE, round(SIZE * 360 / 320))
        images.append(image[:, :, ::-1].transpose(2, 0, 1))
    return np.array(images)


def peer_probabilities(prefix, epoch, images):
    """What others give for images: MXNet's own Module, or ONNX Runtime where there is no MXNet."""
    compute = compute_with_mxnet if "mxnet" in engines.installed() else compute_with_onnx_runtime
    return compute(str(prefix), epoch, images.astype(np.float32))


def compute_with_mxnet(prefix, epoch, images):
    from common.engines.mxnet.runtime import mx

    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, epoch)
    module = mx.mod.Module(symbol)
    module.bind([("data", images.shape)], [("softmax_label", images.shape[:1])], False)
    module.set_params(arg_params, aux_params)
    return module.predict(mx.io.NDArrayIter(images, None, len(images))).asnumpy()


def compute_with_onnx_runtime(prefix, epoch, images):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = f"{prefix}-{epoch}.onnx"
    export_onnx(path, checkpoint.load(prefix, epoch), images.shape[1:])
    session = runtime.InferenceSession(path)
    os.remove(path)
    return session.run(None, {"data": images})[0]
