"""Recipes: named sets of flags, `--recipe NAME`; flags that are typed count before those of it."""

import logging

RECIPES = {
    # This project's defaults.
    "baseline-2017": {
        "image_shape": "3,320,320",
        "batch_size": 48,
        "num_epochs": 30,
        "lr": 0.01,
        "lr_factor": 0.1,
        "lr_step_epochs": "10,20",
        "optimizer": "sgd",
        "mom": 0.0,
        "wd": 0.0,
        "random_resized_crop": 1,
        "min_random_area": 0.3,
        "random_mirror": 1,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "pca_noise": 0.1,
    },
    # The second stage of Cui et al. 2018 (arXiv:1806.06193): larger images, classes that come
    # equally often, and a low rate, for five epochs from the baseline's last checkpoint:
    # --load-epoch 30. (The rate and the number of epochs are this project's choice.)
    "winners-2017": {
        "image_shape": "3,560,560",
        "class_balance": 1.0,
        "num_epochs": 35,
        "lr": 0.001,
        "lr_step_epochs": "33",
    },
    # Fine-tuning in Liu et al. 2022 (arXiv:2201.03545), table 5: batches of 512.
    "convnext": {
        "engine": "torch",
        "batch_size": 64,
        "accumulate": 8,
        "num_epochs": 30,
        "optimizer": "adamw",
        "lr": 5e-5,
        "wd": 1e-8,
        "lr_scheduler": "cosine",
        "label_smoothing": 0.1,
        "layer_decay": 0.8,
        "ema": 0.9999,
        "min_random_area": 0.08,
        "rand_augment": "2,9",
        "random_erasing": 0.25,
        "brightness": 0.0,  # RandAugment changes the colours
        "contrast": 0.0,
        "saturation": 0.0,
        "pca_noise": 0.0,
    },
    # As timm's ViT-L was fine-tuned on iNaturalist 2021: batches of 1,536.
    "vit": {
        "engine": "torch",
        "batch_size": 48,
        "accumulate": 32,
        "optimizer": "adamw",
        "lr": 5e-5,
        "wd": 0.01,
        "lr_scheduler": "cosine",
        "warmup_epochs": 1.0,
        "layer_decay": 0.8,
        "clip_norm": 1.0,
    },
}


def add_recipe_arg(parser):
    """Add the flag that chooses a recipe."""
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="sets the flags of a recipe, and prints them; what you type yourself counts more",
    )


def parse_args(parser, arguments=None):
    """Parse the flags, with a recipe's in place of the parser's defaults."""
    take_recipe(parser, arguments)
    return parser.parse_args(arguments)


def take_recipe(parser, arguments=None):
    """Put the flags of the recipe that is named in the place of the parser's defaults."""
    known, _ = parser.parse_known_args(arguments)
    if known.recipe:
        parser.set_defaults(**RECIPES[known.recipe])


def report(args):
    """Log what the recipe sets, and what was typed instead."""
    recipe = RECIPES.get(args.recipe, {})
    typed = {name: getattr(args, name) for name in recipe if getattr(args, name) != recipe[name]}
    kept = {name: value for name, value in recipe.items() if name not in typed}
    if recipe:
        instead = f"; typed instead: {_as_flags(typed)}" if typed else ""
        logging.info("--recipe %s: %s%s", args.recipe, _as_flags(kept), instead)


def _as_flags(values):
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())
