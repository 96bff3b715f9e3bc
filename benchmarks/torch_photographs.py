"""The training and validation presets as a user of PyTorch writes them, for its DataLoader.

`torchvision` decodes with torchvision and calls its transforms (v2) for uint8 tensors,
`torchvision-cv2` calls them for what OpenCV decodes. The others do without torchvision: `pil` calls
what its transforms call for PIL images (a crop, `resize`, `ImageEnhance`), `cv2` does the same with
OpenCV, in tables of 256 entries where it can, as albumentations does. All take a path and give
uint8 RGB (H, W, 3).
"""

import functools
import glob
import math
import os
import random

import numpy as np
import torch
from torch.utils.data import Dataset

try:
    import cv2
except ImportError:
    cv2 = None
try:
    import PIL
    from PIL import Image, ImageEnhance
except ImportError:
    PIL = None
try:
    import torchvision
    from torchvision.transforms import v2
except (ImportError, RuntimeError):  # the latter: it belongs to another PyTorch
    torchvision = None

# ImageNet's colours: standard deviations along their principal components, a row a channel (RGB).
PCA = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * np.array([55.46, 4.794, 1.148])


class Photographs(Dataset):
    """The JPEGs of a folder as (uint8 RGB (3, H, W), label)."""

    def __init__(self, folder, preset, reader, size):
        self.paths = sorted(glob.glob(os.path.join(folder, "*.jpg")))
        self.size, self.read = size, PRESETS[reader, preset]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = self.read(self.paths[index], self.size)
        return torch.from_numpy(image).permute(2, 0, 1), index % 10


def reader_version(reader):
    """Return {title: version} of a reader's package; exit where it is missing, and say the fix."""
    package, title, name = {
        "pil": (PIL, "Pillow", "pillow"),
        "cv2": (cv2, "PyTorch's OpenCV", "opencv-python-headless"),
        "torchvision": (torchvision, "torchvision", "torchvision"),
        "torchvision-cv2": (torchvision and cv2, "PyTorch's OpenCV", "torchvision opencv-python"),
    }[reader]
    if package is None:
        raise SystemExit(f"not installed beside PyTorch: pip install {name}")
    return {title: package.__version__}


def start_worker(number):
    """Give a worker its own random numbers, and keep OpenCV to one thread."""
    random.seed(torch.initial_seed())
    if cv2:
        cv2.setNumThreads(0)


# --- What both draw -----------------------------------------------------------------------------


def random_box(height, width):
    """Draw (top, left, height, width): area 0.3 to 1, aspect ratio 3/4 to 4/3."""
    for _ in range(10):
        pixels = height * width * random.uniform(0.3, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < h <= height and 0 < w <= width:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def random_colours():
    """Draw what is done with the colours: [(jitter, its factor)] in random order."""
    names = ["brightness", "contrast", "saturation"]
    random.shuffle(names)
    return [(name, random.uniform(0.6, 1.4)) for name in names]


def random_lighting():
    """Draw the noise of the lighting: what is added to R, G and B."""
    return PCA @ [random.gauss(0, 0.1) for _ in range(3)]


# --- PIL ----------------------------------------------------------------------------------------


def pil_train(path, size):
    image = Image.open(path).convert("RGB")
    top, left, height, width = random_box(image.height, image.width)
    box = (left, top, left + width, top + height)
    image = image.resize((size, size), Image.BILINEAR, box)
    if random.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    for name, factor in random_colours():
        image = enhancers[name](image).enhance(factor)
    pixels = np.asarray(image, np.float32) + random_lighting().astype(np.float32)
    return pixels.clip(0, 255).astype(np.uint8)


def pil_validate(path, size):
    image = Image.open(path).convert("RGB")
    scale = size * 360 // 320 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


# --- OpenCV -------------------------------------------------------------------------------------


def cv2_train(path, size):
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    top, left, height, width = random_box(*image.shape[:2])
    image = cv2.resize(image[top : top + height, left : left + width], (size, size))
    if random.random() < 0.5:
        image = cv2.flip(image, 1)
    values = np.arange(256, dtype=np.float32)
    for name, factor in random_colours():
        if name == "saturation":
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, factor, grey, 1 - factor, 0)
            continue
        grey = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] if name == "contrast" else 0
        table = (values * factor + (1 - factor) * grey).clip(0, 255).astype(np.uint8)
        image = cv2.LUT(image, table)
    tables = values[:, None] + random_lighting()
    return cv2.LUT(image, tables.clip(0, 255).astype(np.uint8)[None])


def cv2_validate(path, size):
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    scale = size * 360 // 320 / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale)
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


# --- torchvision --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def v2_transforms(preset, size):
    """Return torchvision's transforms, of a tensor (3, H, W) to one of (3, size, size)."""
    if preset == "validation":
        return v2.Compose([v2.Resize(size * 360 // 320), v2.CenterCrop(size)])
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.3, 1), ratio=(3 / 4, 4 / 3)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.Lambda(add_lighting),
        ]
    )


def add_lighting(image):
    noise = torch.tensor(random_lighting(), dtype=torch.float32)
    return (image + noise[:, None, None]).clamp_(0, 255).to(torch.uint8)


def v2_of_torchvision(preset):
    def read(path, size):
        encoded = torchvision.io.read_file(path)
        image = torchvision.io.decode_jpeg(encoded, torchvision.io.ImageReadMode.RGB)
        return v2_transforms(preset, size)(image).permute(1, 2, 0).numpy()

    return read


def v2_of_cv2(preset):
    def read(path, size):
        image = torch.from_numpy(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))
        return v2_transforms(preset, size)(image.permute(2, 0, 1)).permute(1, 2, 0).numpy()

    return read


PRESETS = {
    ("pil", "training"): pil_train,
    ("pil", "validation"): pil_validate,
    ("cv2", "training"): cv2_train,
    ("cv2", "validation"): cv2_validate,
    ("torchvision", "training"): v2_of_torchvision("training"),
    ("torchvision", "validation"): v2_of_torchvision("validation"),
    ("torchvision-cv2", "training"): v2_of_cv2("training"),
    ("torchvision-cv2", "validation"): v2_of_cv2("validation"),
}
