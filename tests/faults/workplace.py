"""A challenge of 24 photographs, with every kind of file that the scripts read, made by them."""

import json
import os
import shutil

import cv2
import numpy as np

from common.networks import checkpoint
from common.networks.resnet import build_resnet
from common.networks.torch_networks import build
from tests.random_networks import for_raw_images, with_random_weights
from tests.torch_writer import Tensor, save_legacy, save_safetensors, save_zip

SIZE = 32
CATEGORY_IDS = [11, 22, 33, 44, 55, 66]
SETS = {"train": 12, "val": 6, "test": 6}

TRAIN = [
    *("--data-dir", ".", "--gpus", "cpu", "--image-shape", f"3,{SIZE},{SIZE}"),
    *("--batch-size", "6", "--mom", "0.9", "--data-nthreads", "1", "--model-prefix", "run"),
]
PREDICT = [
    *("--data-dir", ".", "--model-prefix", "run", "--crop-size", SIZE, "--data-nthreads", "1"),
    *("--batch-size", "3", "--output", "out.csv"),
]


def make(folder, scripts):
    """Fill `folder`: JSON, photographs, lists, records, networks, checkpoints, probabilities."""
    _write_photographs(str(folder))
    _write_networks(str(folder))
    _call(scripts, folder, "mx_list.py", "--data-dir", ".")
    for name in ("train", "val"):
        _call(scripts, folder, "im2rec.py", name, ".")
    train = ["--pretrained-model", "zoo", "--num-epochs", "2", "--lr-step-epochs", "", *TRAIN]
    _call(scripts, folder, "fine-tune.py", *train)
    for name in ("a", "b"):
        probabilities = ["1" if name == "a" else "2", "cpu", "--save-probs", f"{name}.npz"]
        _call(scripts, folder, "sub.py", *probabilities, *PREDICT)
    (folder / "out.csv").unlink()


def _call(scripts, folder, *command):
    done = scripts(folder, *command)
    assert done.status == 0, done.stderr


def copy(source, target):
    """Copy the folder for one case; what is at the target is removed first."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def contents(folder):
    """Return {name: bytes} of all files below a folder; `b"no file"` for what is not a file."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.isfile(path):
                content = b"no file"
            elif os.path.getsize(path) > 1 << 30:
                content = b"too large"
            else:
                with open(path, "rb") as stream:
                    content = stream.read()
            found[os.path.relpath(path, folder)] = content
    return found


def _write_photographs(folder):
    image_id = 1
    categories = [
        {"id": number, "name": f"Species {number}", "supercategory": f"Group {number % 2}"}
        for number in CATEGORY_IDS
    ]
    for name, count in SETS.items():
        images, annotations = [], []
        for i in range(count):
            start = "test2017" if name == "test" else f"train_val_images/Group {i % 2}"
            # JPEG and PNG; ids of one length, so that a cut leaves an id that exists
            path = f"{start}/{name}{i}.{'png' if i == 3 else 'jpg'}"
            _paint(os.path.join(folder, path), image_id)
            images.append({"id": image_id, "file_name": path})
            annotations.append(
                {"id": image_id, "image_id": image_id, "category_id": CATEGORY_IDS[i % 6]}
            )
            image_id += 1
        content = {"images": images, "categories": categories}
        if name != "test":
            content["annotations"] = annotations
        with open(os.path.join(folder, f"{name}2017.json"), "w", encoding="utf-8") as stream:
            json.dump(content, stream)


def _paint(path, seed):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    cv2.imwrite(path, cv2.resize(patches, (50, 40), interpolation=cv2.INTER_CUBIC))


def _write_networks(folder):
    network = with_random_weights(build_resnet(10, 9, width=2), SIZE, seed=5, variance=2)
    checkpoint.save(os.path.join(folder, "zoo"), 0, for_raw_images(network))
    state = _torch_resnet()
    save_zip(os.path.join(folder, "zip.pth"), state)
    save_legacy(os.path.join(folder, "legacy.pth"), state)
    arrays = {name: tensor.array.reshape(tensor.shape) for name, tensor in state.items()}
    save_safetensors(os.path.join(folder, "net.safetensors"), arrays)
    build(arrays)


def _torch_resnet(width=4, num_classes=9):
    """Return the state dict of a ResNet of four units with torchvision's names."""
    random, state = np.random.RandomState(0), {}

    def add(name, *shape):
        array = np.abs(random.standard_normal(shape)).astype(np.float32)
        state[name] = Tensor(array, str(len(state)))

    def convolution(conv, norm, channels, filters, kernel):
        add(f"{conv}.weight", filters, channels, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            add(f"{norm}.{part}", filters)

    convolution("conv1", "bn1", 3, width, 7)
    for stage in range(1, 5):
        key = f"layer{stage}.0"
        channels, filters = width * 2 ** max(0, stage - 2), width * 2 ** (stage - 1)
        if stage > 1:
            convolution(f"{key}.downsample.0", f"{key}.downsample.1", channels, filters, 1)
        convolution(f"{key}.conv1", f"{key}.bn1", channels, filters, 3)
        convolution(f"{key}.conv2", f"{key}.bn2", filters, filters, 3)
    add("fc.weight", num_classes, filters)
    add("fc.bias", num_classes)
    return state
