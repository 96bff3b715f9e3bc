"""The peer DALI, NVIDIA's library for reading photographs, on the CPU.

    TORCH_PYTHON -m benchmarks.dali_peer --folder JPEGS --preset training --workers 2

`benchmarks/feeding.py` starts it; it then works for each line of its standard input
(`benchmarks/sides.py`). It decodes only the crop, and changes the colours in one step. The noise of
the lighting is left out: it has no such operator.
"""

import argparse
import glob
import os

from benchmarks.sides import serve


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", help="of JPEGS")
    parser.add_argument("--preset", choices=PRESETS, default="training")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    try:
        from nvidia import dali
    except ImportError:
        raise SystemExit("not installed: pip install nvidia-dali-cuda130") from None
    paths = sorted(glob.glob(os.path.join(args.folder, "*.jpg")))
    pipeline = make_pipeline(dali, args, paths)
    batches = -(-len(paths) // args.batch_size)

    def work():
        for _ in range(batches):
            images, _ = pipeline.run()
            images.as_array()
        return batches * args.batch_size, []

    serve(work, {"DALI": dali.__version__})


def make_pipeline(dali, args, paths):
    """Return a pipeline that gives (uint8 RGB (N, 3, H, W), labels), in a new order each epoch."""
    settings = {"batch_size": args.batch_size, "num_threads": args.workers, "device_id": None}
    with dali.Pipeline(**settings) as pipeline:
        encoded, labels = dali.fn.readers.file(
            files=paths, random_shuffle=args.preset == "training", name="photographs"
        )
        pipeline.set_outputs(PRESETS[args.preset](dali, encoded, args.size), labels)
    pipeline.build()
    return pipeline


def train(dali, encoded, size):
    fn = dali.fn
    image = fn.decoders.image_random_crop(
        encoded, random_area=[0.3, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
    )
    image = fn.resize(image, size=[size, size], antialias=False)
    factors = ("brightness", "contrast", "saturation")
    image = fn.color_twist(
        image, **{factor: fn.random.uniform(range=[0.6, 1.4]) for factor in factors}
    )
    return as_planes(dali, image, size, mirror=fn.random.coin_flip())


def validate(dali, encoded, size):
    image = dali.fn.decoders.image(encoded)
    image = dali.fn.resize(image, resize_shorter=size * 360 // 320, antialias=False)
    return as_planes(dali, image, size)


def as_planes(dali, image, size, mirror=0):
    """Return the centre of an image as uint8 (3, size, size)."""
    return dali.fn.crop_mirror_normalize(
        image,
        crop=[size, size],
        mirror=mirror,
        dtype=dali.types.UINT8,
        output_layout="CHW",
        mean=[0.0] * 3,
        std=[1.0] * 3,
    )


PRESETS = {"training": train, "validation": validate}

if __name__ == "__main__":
    main()
