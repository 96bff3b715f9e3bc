"""A network of timm as plain data: the name of its architecture, its settings and its arrays.

timm (PyTorch Image Models) builds the module; only `common.engines.torch` imports it. Settings are
named and mean what they do in the `config.json` of timm's repositories on the Hugging Face hub.
"""

import dataclasses
import re

from common.networks import edits

# The last part of the names of BatchNorm's statistics.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# Arguments of `create_model` that would have it read other files.
_LOADING = ("checkpoint_path", "pretrained_cfg_overlay", "cache_dir")
# Of a `pretrained_cfg`: where somebody's weights are, and what their classes are called.
_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
_LABELS = ("label_offset", "label_names", "label_descriptions")


@dataclasses.dataclass
class TimmNetwork:
    """A network that timm builds.

    Attributes:
        architecture: timm's name, e.g. `convnext_base`, without a tag.
        num_classes: of the network as it is built.
        pretrained_cfg: timm's description of the weights: `mean` and `std` of images of 0 to 1,
            `input_size`, `num_classes`, `classifier` (the name of the head), `license`, `tag`, …
        params, stats: `{timm's name: numpy array}`; without any, timm draws them.
        arguments: of timm's `create_model`, beside `num_classes`: `{"drop_path_rate": 0.1}`.
        has_new_head: whether the head is drawn anew, for `num_classes`.
        label_smoothing: share of each target that the other classes get in training.
        ranges: `{layer: [lowest, highest]}` of what the layers are given that int8 computes; only a
            calibrated network has them.
        source: the file of the arrays, which somebody says are of this architecture; or "".
    """

    architecture: str
    num_classes: int
    pretrained_cfg: dict
    params: dict
    stats: dict
    arguments: dict = dataclasses.field(default_factory=dict)
    has_new_head: bool = False
    label_smoothing: float = 0.0
    ranges: dict = dataclasses.field(default_factory=dict)
    source: str = ""

    @classmethod
    def from_config(cls, config, arrays):
        """Return the network of a `config.json` of timm, as a dict, and `{name: array}`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is not such a dict, or names other
                files.
        """
        architecture, arguments = config["architecture"], dict(config.get("model_args") or {})
        arguments.pop("num_classes", None)  # which newer timm repeats here
        if not re.fullmatch(r"\w+", architecture):
            raise ValueError(f"{architecture[:50]} is not an architecture")
        if not arguments.keys().isdisjoint(_LOADING):
            raise ValueError("its arguments name other files")
        cfg = {key: value for key, value in config["pretrained_cfg"].items() if key not in _SOURCES}
        cfg["num_classes"] = int(config.get("num_classes", cfg.get("num_classes", 1000)))
        names = {name: name.rpartition(".")[2] in _STATISTICS for name in arrays}
        return cls(
            architecture,
            cfg["num_classes"],
            cfg,
            {name: arrays[name] for name, is_statistic in names.items() if not is_statistic},
            {name: arrays[name] for name, is_statistic in names.items() if is_statistic},
            arguments,
            ranges={
                name: [float(lowest), float(highest)]
                for name, (lowest, highest) in config.get("input_ranges", {}).items()
            },
        )

    def config(self):
        """Return what `from_config` and timm read, apart from the arrays."""
        config = {"architecture": self.architecture, "num_classes": self.num_classes}
        weight = self.params.get(f"{self.head}.weight")
        if weight is not None:
            config["num_features"] = weight.shape[1]
        if self.ranges:
            config["input_ranges"] = self.ranges
        return {**config, "model_args": self.arguments, "pretrained_cfg": self.pretrained_cfg}

    @property
    def head(self):
        """The name of the classifier; of several, the first one's."""
        return self._heads()[0]

    def head_params(self):
        """Return the names of the classifier's parameters."""
        return tuple(f"{head}.{kind}" for head in self._heads() for kind in ("weight", "bias"))

    def _heads(self):
        classifier = self.pretrained_cfg.get("classifier") or "head"
        return [classifier] if isinstance(classifier, str) else [*classifier]

    def shapes(self):
        """Return `{name: shape}` of all arrays."""
        return {name: array.shape for name, array in {**self.params, **self.stats}.items()}

    def with_arrays(self, params, stats):
        """Return the network with the arrays of the network as it is built."""
        cfg = {key: value for key, value in self.pretrained_cfg.items() if key not in _LABELS}
        cfg["num_classes"] = self.num_classes
        return dataclasses.replace(
            self, params=params, stats=stats, pretrained_cfg=cfg, has_new_head=False
        )

    def with_new_head(self, num_classes):
        """Return the network with an untrained head for other classes."""
        return dataclasses.replace(self, num_classes=num_classes, has_new_head=True)

    def without_weights(self):
        """Return the network without its arrays: timm draws them."""
        return dataclasses.replace(self, params={}, stats={})

    def with_arguments(self, **arguments):
        """Return the network with further arguments of `create_model`."""
        return dataclasses.replace(self, arguments={**self.arguments, **arguments})

    def for_images(self, image_shape):
        """Return the network for images `(3, H, W)`; timm resamples what depends on their size."""
        arguments = {**self.arguments}
        if self.pretrained_cfg.get("fixed_input_size"):
            arguments["img_size"] = list(image_shape[1:])
        cfg = {**self.pretrained_cfg, "input_size": list(image_shape)}
        return dataclasses.replace(self, arguments=arguments, pretrained_cfg=cfg)

    def smooth_labels(self, share):
        """Return the network trained with `share` of each target on the other classes."""
        return dataclasses.replace(self, label_smoothing=share)

    def freeze(self, pattern):
        """Return the network, and the names of the parameters that match (`re.match`).

        BatchNorms whose weight is among them keep their statistics in training, too.

        Raises:
            UserError: the pattern is not a regular expression, or matches none or all.
        """
        return self, edits.matching(pattern, self.params)
