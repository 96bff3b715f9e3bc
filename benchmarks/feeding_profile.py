"""Where the time of feeding goes: milliseconds of one core for an image, step by step.

    python -m benchmarks.feeding_profile

The training and the validation preset at 320 px, on made-up photographs of 683x512 (JPEG 95) in
records, on one thread. The steps are the functions that the loader calls; the rest is what the
loader takes beyond them (threads, random numbers, batches). It explains the ratios of
`python -m benchmarks.feeding`. Writes benchmarks/results/feeding_profile.json.
"""

import dataclasses
import statistics
import tempfile
import time

import numpy as np

from benchmarks.compare import make_parser, write_result
from benchmarks.feeding import BATCH_SIZE, SIZE, make_records, ours, reader
from common.base.script import run_script
from common.data.augmentation import Augmentation, jitter_colors, random_box, train_image
from common.data.image import decode, eval_image, eval_side, write_planes
from common.data.loader import RecordSource, random_numbers
from common.data.partial_jpeg import open_image

AUGMENTATION = Augmentation()
COLOURLESS = dataclasses.replace(AUGMENTATION, brightness=0, contrast=0, saturation=0, pca_noise=0)
READING, COPYING, REST = "reading the record", "copying into the batch", "the rest"


def decode_to_crop(data, rng):
    """Decode as far down as the crop that `rng` is about to draw."""
    image = open_image(data)
    state = rng.bit_generator.state
    top, _, height, _ = random_box(
        *image.shape[:2], AUGMENTATION.area, AUGMENTATION.aspect_ratio, rng
    )
    rng.bit_generator.state = state
    image[: top + height, :]
    return image


# What the loader does between these two, in its order: `step(image, rng) -> image`.
STEPS = {
    "training": {
        "decoding the JPEG": decode_to_crop,
        "crop, resize, mirror": lambda image, rng: train_image(image, SIZE, SIZE, COLOURLESS, rng),
        "colours": lambda image, rng: jitter_colors(image, AUGMENTATION, rng),
    },
    "validation": {
        "decoding the JPEG": lambda data, rng: decode(data),
        "crop, resize, mirror": lambda image, rng: eval_image(
            image, SIZE, SIZE, eval_side(SIZE, SIZE)
        ),
    },
}
clock = time.process_time  # other programs do not count


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    images, rounds = (96, 1) if args.quick else (960, args.rounds)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        rec = make_records(folder, images)
        for preset in ("training", "validation"):
            found = measure(rec, preset, rounds)
            result[preset] = found
            print(f"{preset}: {sum(found.values()):.3f} ms of a core an image")
            for step, milliseconds in found.items():
                print(f"  {milliseconds:6.3f} ms  {step}")
    write_result("feeding_profile", {"milliseconds": result}, args.quick)


def measure(rec, preset, rounds):
    """Return `{step: milliseconds of an image}`, the medians over the rounds."""
    source = RecordSource(rec)
    loader = ours(rec, preset, threads=1)
    feed = reader(loader)
    feed()  # the first epoch finds the file and the memory cold
    found = []
    for epoch in range(rounds):
        seconds = time_steps(source, STEPS[preset], epoch)
        start = clock()
        count = feed()
        seconds[REST] = clock() - start - sum(seconds.values())
        found.append({step: 1000 * spent / count for step, spent in seconds.items()})
    loader.close()
    return {step: statistics.median(one[step] for one in found) for step in found[0]}


def time_steps(source, steps, epoch):
    """Return `{step: seconds of all images}` of the functions that the loader calls."""
    batch = np.empty((BATCH_SIZE, 3, SIZE, SIZE), np.uint8)
    seconds = dict.fromkeys([READING, *steps, COPYING], 0.0)
    for number in range(len(source)):
        rng = random_numbers(0, epoch, number)
        start = clock()
        image = source.read(number)[0]
        seconds[READING] += clock() - start
        for step, work in steps.items():
            start = clock()
            image = work(image, rng)
            seconds[step] += clock() - start
        start = clock()
        write_planes(image, batch[number % BATCH_SIZE])
        seconds[COPYING] += clock() - start
    return seconds


if __name__ == "__main__":
    run_script(main)
