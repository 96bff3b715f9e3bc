"""Networks of both kinds, MXNet's graphs and timm's, as modules to train.

Both kinds of module have `params` and `stats`, `{name: tensor}`, `loss_settings` and `is_softmax`,
take raw images and give logits.
"""

from common.engines.torch import compilation, initial_weights, operators, timm_networks
from common.engines.torch.runtime import torch
from common.engines.torch.shapes import infer_shapes
from common.networks import edits
from common.networks.timm_network import TimmNetwork


def build_module(network, device, options):
    """Return `(module, attributes)` of a network in training.

    The weights that are trained require gradients; those that the network lacks are drawn at
    random. `attributes` hold each one's `__lr_mult__` and `__wd_mult__`, where there are any.

    Args:
        network: a `Network` or `TimmNetwork`.
        options: `common.engines.TrainerOptions`.

    Raises:
        UserError: this engine lacks a layer of the network, or the arrays do not fit it.
    """
    if isinstance(network, TimmNetwork):
        module, attributes = timm_networks.build_to_train(network, device, options)
    else:
        graph = edits.set_learning_rate_factors(network.graph, options.learning_rate_factors)
        attributes = {node["name"]: node.get("attrs", {}) for node in graph["nodes"]}
        module = _build_graph(network, device, options, attributes)
    if options.compiled:
        compilation.compile_for_training(module)
    return module, attributes


def _build_graph(network, device, options, attributes):
    module = operators.build(network, options.dtype, device, channels_last=True)
    if module.missing:
        shapes = infer_shapes(network.graph, options.image_shape)
        generator = torch.Generator().manual_seed(options.seed)
        for name in [*module.missing]:
            array = initial_weights.draw(name, shapes[name], attributes[name], generator)
            module.set(name, operators.as_tensor(array.numpy(), device, channels_last=True))
    fixed = edits.fixed_gammas(network.graph)
    for name, weight in module.params.items():
        weight.requires_grad_(name not in fixed and name not in options.frozen)
        if name in fixed:
            torch.nn.init.ones_(weight)
    return module
