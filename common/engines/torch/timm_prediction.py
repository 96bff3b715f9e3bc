"""Networks of timm that only predict, made faster: layers are joined, or compute in integers."""

from common.engines.torch import compilation, int8_layers, linear, timm_folding
from common.engines.torch.fusion import has_onednn
from common.engines.torch.runtime import torch
from common.engines.torch.timm_networks import build


def build_to_predict(network, device, data_shape, dtype, compiled=False):
    """Return the module of a `TimmNetwork` for batches of `data_shape`, and its number of classes.

    int8 takes a calibrated network; what has no integers computes in float32.

    Raises:
        UserError: as `build`.
    """
    is_int8 = dtype == "int8"
    dtype = "float32" if is_int8 else dtype
    module = build(network, data_shape[1:], device, dtype).eval()
    timm_folding.fold(module.model, torch.zeros(1, *data_shape[1:], device=device))
    if is_int8:
        _compute_in_integers(module.model, network)
    # Inductor joins more than that in bfloat16, and in float32 it multiplies with MKL, too.
    kinds = ("float32",) if compiled else ("float32", "bfloat16")
    if has_onednn(device) and dtype in kinds:
        kind = linear.JoinedLinear if compiled else linear.PackedLinear
        _join_activations(module.model, getattr(torch, dtype), kind)
    if compiled:
        if is_int8:
            with torch.no_grad():
                module(torch.zeros(data_shape, dtype=torch.uint8))  # it lays out its weights
        compilation.compile_for_prediction(module)
    return module, network.num_classes


# --- 8-bit integers -------------------------------------------------------------------------------


def layers_for_int8(model, network):
    """Return `{name: layer}` of the layers of timm's module that int8 computes in integers.

    The classifier is not among them.
    """
    heads = {name.rpartition(".")[0] for name in network.head_params()}
    found = int8_layers.find(model)
    return {name: layer for name, layer in found.items() if name not in heads}


def _compute_in_integers(model, network):
    """Have a module compute its calibrated layers in integers.

    Between the two layers of an `Mlp` numbers stay integers.
    """
    ranges = network.ranges
    for name, block, gelu in _mlps_with_gelu(model):
        first, second = f"{name}.fc1", f"{name}.fc2"
        if type(block.norm) is torch.nn.Identity and {first, second} <= ranges.keys():
            block.fc2 = int8_layers.Int8Linear(block.fc2, *ranges[second])
            block.fc1 = int8_layers.Int8Linear(block.fc1, *ranges[first], gelu, block.fc2.source)
            block.act = torch.nn.Identity()
    for name, layer in int8_layers.find(model).items():
        if name in ranges:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, int8_layers.make(layer, *ranges[name]))


# --- Linear layers, and the GELUs behind them -----------------------------------------------------


def _mlps_with_gelu(model):
    """Yield each `Mlp` of linear layers: its name, its module, and the form of its GELU."""
    from timm.layers import GELU, GELUTanh, Mlp

    for name, block in list(model.named_modules()):
        if type(block) is not Mlp or type(block.fc1) is not torch.nn.Linear:
            continue
        if isinstance(block.act, torch.nn.GELU):
            yield name, block, block.act.approximate
        elif isinstance(block.act, (GELU, GELUTanh)):
            yield name, block, "tanh" if isinstance(block.act, GELUTanh) else "none"


def _join_activations(model, dtype, kind):
    """Have oneDNN compute the linear layers of a module in prediction, and the GELUs behind them.

    They become layers of a `kind`. The weights that are multiplied are stored in `dtype`, what the
    network computes in.
    """
    for _, block, gelu in _mlps_with_gelu(model):
        block.fc1 = kind(block.fc1, gelu)
        block.act = torch.nn.Identity()
    linear.replace_linear(model, kind)
    for layer in model.modules():
        if isinstance(layer, (linear.OneDnnLinear, torch.nn.Conv2d)):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
