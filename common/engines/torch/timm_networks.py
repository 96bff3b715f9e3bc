"""Networks of timm as PyTorch modules: built, trained and exported."""

import difflib
import inspect
import logging
import warnings

import numpy as np

from common.base.files import UserError, replacing
from common.engines.torch import convolutions, linear
from common.engines.torch.fusion import has_onednn
from common.engines.torch.runtime import reason_of, torch
from common.networks.onnx_graph import mark_as_raw

ONNX_OPSET = 17  # the first one with LayerNormalization

# What timm and PyTorch raise where arrays, arguments or images do not fit an architecture.
_MISFITS = (RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError)


def timm_config(name):
    """Return what timm knows of NAME or NAME.TAG: its `config.json`, as a dict.

    Raises:
        UserError: timm is not installed, or has no such network.
    """
    timm = _import()
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise UserError(f"{name}: timm {timm.__version__} has no such network{hint}")
    try:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise UserError(
            f"{name}: timm {timm.__version__} knows no such weights; those of {architecture}:"
            f" {', '.join(tags) or 'none'}"
        ) from None
    return {"architecture": architecture, "pretrained_cfg": cfg.to_dict()}


def _import():
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision of another PyTorch
        raise UserError(
            f"networks of timm need the package timm ({reason_of(error)}): pip install timm, with"
            " the torchvision that belongs to this PyTorch"
        ) from None
    logging.getLogger("timm").setLevel(logging.WARNING)  # it reports each step of its own
    return timm


class TimmModule(torch.nn.Module):
    """A network of timm behind its normalisation, with the interface of `GraphModule`.

    Attributes:
        loss_settings: the keyword arguments of `loss.loss_gradient`.
        is_softmax: whether the softmax of what it gives are probabilities.
        model: timm's module.
    """

    is_softmax = True

    def __init__(self, model, mean, std, dtype="float32", label_smoothing=0.0):
        """`mean` and `std` are those of images of 0 to 1, three numbers each."""
        super().__init__()
        self.model = model
        self.loss_settings = {"grad_scale": 1.0, "smooth_alpha": label_smoothing, "is_mean": False}
        for name, numbers in (("_mean", mean), ("_std", std)):
            tensor = 255 * torch.tensor(numbers, dtype=torch.float32).reshape(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        self._dtype = getattr(torch, dtype)

    @property
    def params(self):
        """`{timm's name: parameter}`."""
        return dict(self.model.named_parameters())

    @property
    def stats(self):
        """`{timm's name: statistic}`, without BatchNorm's counters of batches."""
        saved = self.model.state_dict(keep_vars=True).keys() - self.params.keys()
        buffers = self.model.named_buffers()
        return {n: buffer for n, buffer in buffers if n in saved and buffer.is_floating_point()}

    def train(self, mode=True):
        """Choose training or prediction; a BatchNorm whose weight is frozen always predicts."""
        super().train(mode)
        for layer in self.modules():
            weight = getattr(layer, "weight", None)
            is_norm = isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
            if is_norm and weight is not None and not weight.requires_grad:
                layer.eval()
        return self

    def forward(self, images):
        """Return the logits, float32, of raw RGB images (N, 3, H, W) of 0 to 255."""
        images = images.to(torch.float32, memory_format=torch.channels_last)
        low_precision = self._dtype is not torch.float32
        with torch.autocast(images.device.type, self._dtype, enabled=low_precision):
            logits = self.model((images - self._mean) / self._std)
        return logits.float()


def build(network, image_shape, device="cpu", dtype="float32"):
    """Return the `TimmModule` of a `TimmNetwork` for images `(3, H, W)`, on a device.

    timm draws what the network has no arrays for, and resamples position embeddings.

    Raises:
        UserError: timm is not installed, has no such architecture, or the arrays or images do not
            fit it.
    """
    _import()
    network = network.for_images(image_shape)
    try:
        model = _create(network)
        cfg = network.pretrained_cfg
        module = TimmModule(model, cfg["mean"], cfg["std"], dtype, network.label_smoothing)
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(1, *image_shape)).shape)
    except _MISFITS as error:
        what = f"timm's {network.architecture} for images of {image_shape[1]}x{image_shape[2]}"
        what = f"{network.source}: {what}" if network.source else what
        if isinstance(error, KeyError) or "key(s) in state_dict" in str(error):
            raise UserError(
                f"{what}: the weights are of another network ({reason_of(error)})"
            ) from None
        raise UserError(f"{what}: {reason_of(error)}; check the weights and the size") from None
    if shape != (1, network.num_classes):
        raise UserError(
            f"timm's {network.architecture}: gives {shape} for an image, not"
            f" (1, {network.num_classes}); choose a classifier"
        )
    return module.to(device, memory_format=torch.channels_last)


def _create(network):
    """Return timm's module, which has loaded the arrays by its own rules for pretrained weights."""
    state = {
        name: torch.from_numpy(np.require(array, requirements=("C", "W")))
        for name, array in {**network.params, **network.stats}.items()
    }
    try:
        model = _load(network, state)
    except RuntimeError:  # names are missing, perhaps those that a checkpoint leaves out
        model = _load(network, {**_left_out(network, state), **state})
    if network.has_new_head:
        model.reset_classifier(network.num_classes)
    return model


def _load(network, state):
    cfg = {**network.pretrained_cfg, "state_dict": state}
    model = _import().create_model(
        network.architecture,
        pretrained=bool(state),
        pretrained_cfg=cfg,
        num_classes=cfg["num_classes"],  # of the arrays
        **network.arguments,
    )
    model.pretrained_cfg.pop("state_dict", None)
    return model


def _left_out(network, state):
    """Return what timm's files have and a checkpoint of this project does not, `{name: tensor}`.

    Parameters that have two names (CoaT), and integers that training does not change
    (EfficientFormer).
    """
    same = {}
    for name, tensor in _load(network, {}).state_dict(keep_vars=True).items():
        same.setdefault(id(tensor), (tensor, []))[1].append(name)
    found = {}
    for tensor, names in same.values():
        known = next((state[name] for name in names if name in state), None)
        if known is None and not tensor.is_floating_point():
            known = tensor
        if known is not None:
            found.update(dict.fromkeys(names, known))
    return found


class _Forgetful(dict):
    """A cache of timm's that keeps nothing: a recorded validation would read old weights of it."""

    def __contains__(self, key):
        return False

    def __len__(self):
        return 0


def build_to_train(network, device, options):
    """Return the `TimmModule`, and each parameter's `__lr_mult__` and `__wd_mult__`.

    Weight decay leaves out biases, norms and what the architecture names, by timm's convention.

    Raises:
        UserError: as `build`, or a frozen parameter is not the network's.
    """
    module = build(network, options.image_shape, device, options.dtype)
    unknown = set(options.frozen) - module.model.state_dict().keys()
    if unknown:
        raise UserError(
            f"--freeze: timm's {network.architecture} has no parameter {min(unknown)}; its names"
            f" begin with {', '.join(dict.fromkeys(n.split('.')[0] for n in module.params))}"
        )
    if options.sync_batch_norm:
        raise UserError("--sync-batch-norm: is not for networks of timm; leave it out")
    for layer in module.modules():
        if hasattr(layer, "attention_bias_cache"):
            layer.attention_bias_cache = _Forgetful()
    factors = _factors(module.model, options.layer_decay)
    if has_onednn(device):
        convolutions.pick_pixels_first(module.model)
        if options.dtype == "float32":  # bfloat16 is oneDNN's anyway
            linear.replace_linear(module.model, linear.OneDnnLinear)
    attributes = {}
    for name, weight in module.params.items():
        weight.requires_grad_(name not in options.frozen)
        rate, decay = factors[id(weight)]
        rate *= options.learning_rate_factors.get(name, 1.0)
        attributes[name] = {"__wd_mult__": f"{decay:g}", "__lr_mult__": str(rate)}
    return module, attributes


def _factors(model, layer_decay):
    """Return the factors of learning rate and weight decay, `{id of the parameter: (rate, decay)}`.

    timm knows what belongs to which layer, and what does not decay (Clark et al. 2020,
    arXiv:2003.10555, section 3.2, for layer-wise rates).
    """
    from timm import optim

    settings = {
        "weight_decay": 1.0,
        "no_weight_decay_list": getattr(model, "no_weight_decay", set)(),
    }
    if layer_decay == 1:
        groups = optim.param_groups_weight_decay(model, **settings)
    else:
        groups = optim.param_groups_layer_decay(model, layer_decay=layer_decay, **settings)
    return {
        id(param): (group.get("lr_scale", 1.0), group["weight_decay"])
        for group in groups
        for param in group["params"]
    }


def export_onnx(path, network, image_shape):
    """Write a network to `path`: `data` (N, 3, H, W) float32 RGB, 0 to 255, -> `probabilities`.

    N is free, H and W are those of `image_shape`.

    Raises:
        UserError: as `build`, or a layer has no counterpart in ONNX.
    """
    module = torch.nn.Sequential(build(network, image_shape), torch.nn.Softmax(1)).eval()
    settings = {
        "input_names": ["data"],
        "output_names": ["probabilities"],
        "dynamic_axes": {"data": {0: "N"}, "probabilities": {0: "N"}},
        "opset_version": ONNX_OPSET,
    }
    # The exporter by tracing: as exact as the newer one, ten times as fast, and without onnxscript.
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        settings["dynamo"] = False
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older exporter, and what tracing fixes
        try:
            torch.onnx.export(module, (torch.zeros(2, *image_shape),), temporary, **settings)
            mark_as_raw(temporary)
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                f"{path}: this network has a layer that ONNX lacks: {reason_of(error)}"
            ) from None
    logging.info("%s: opset %d, input data (N, %d, %d, %d)", path, ONNX_OPSET, *image_shape)
