"""MXNet's pre-activation ResNets (He et al. 2016, arXiv:1603.05027), as its model zoo has them."""

from common.base.files import UserError
from common.networks.edits import classify
from common.networks.graph import Builder

BATCH_NORM_EPSILON = 2e-5  # of the zoo's ResNets; MXNet's own default is 1e-3
BATCH_NORM_MOMENTUM = 0.9

# Residual units in each of the four stages, and whether they are bottlenecks of three convolutions.
# The zoo's depths, and 10, which is small enough for tests.
RESNET_UNITS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def build_resnet(num_layers, num_classes, width=64):
    """Return the graph of a ResNet with the layer and parameter names of MXNet's model zoo.

    Args:
        num_layers: a depth of `RESNET_UNITS`.
        width: channels of the first convolution; 64 in the zoo, less for tests.
    """
    if num_layers not in RESNET_UNITS:
        depths = ", ".join(map(str, RESNET_UNITS))
        raise UserError(f"a ResNet has {depths} layers, not {num_layers}")
    units, bottleneck = RESNET_UNITS[num_layers]
    expansion = 4 if bottleneck else 1

    net = Builder()
    body = _batch_norm(net, net.variable("data"), "bn_data", fix_gamma=True)
    body = _convolution(net, body, "conv0", width, kernel=7, stride=2)
    body = _activate(net, body, "bn0", "relu0")
    body = net.add(
        "Pooling", "pooling0", body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max"
    )
    for stage, num_units in enumerate(units, start=1):
        channels = width * 2 ** (stage - 1) * expansion
        for unit in range(1, num_units + 1):
            stride = 2 if unit == 1 and stage > 1 else 1
            name = f"stage{stage}_unit{unit}"
            body = _residual_unit(net, body, name, channels, stride, unit > 1, bottleneck)
    body = _activate(net, body, "bn1", "relu1")
    body = net.add("Pooling", "pool1", body, global_pool=True, kernel=(7, 7), pool_type="avg")
    return net.graph(classify(net, net.add("Flatten", "flatten0", body), num_classes, "fc1"))


def _residual_unit(net, body, name, channels, stride, same_shape, bottleneck):
    """One unit; its shortcut is the identity where the shapes allow, else a 1x1 convolution."""
    activated = _activate(net, body, f"{name}_bn1", f"{name}_relu1")
    if bottleneck:
        plan = [(channels // 4, 1, 1), (channels // 4, 3, stride), (channels, 1, 1)]
    else:
        plan = [(channels, 3, stride), (channels, 3, 1)]
    branch = activated
    for number, (num_filter, kernel, step) in enumerate(plan, start=1):
        if number > 1:
            branch = _activate(net, branch, f"{name}_bn{number}", f"{name}_relu{number}")
        branch = _convolution(net, branch, f"{name}_conv{number}", num_filter, kernel, step)
    shortcut = body
    if not same_shape:
        shortcut = _convolution(net, activated, f"{name}_sc", channels, 1, stride)
    return net.add("elemwise_add", net.unique("_plus"), branch, shortcut)


def _convolution(net, body, name, num_filter, kernel, stride=1):
    return net.add(
        "Convolution",
        name,
        body,
        num_filter=num_filter,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pad=(kernel // 2, kernel // 2),
        no_bias=True,
    )


def _batch_norm(net, body, name, fix_gamma=False):
    return net.add(
        "BatchNorm",
        name,
        body,
        fix_gamma=fix_gamma,
        eps=BATCH_NORM_EPSILON,
        momentum=BATCH_NORM_MOMENTUM,
    )


def _activate(net, body, batch_norm_name, relu_name):
    normalised = _batch_norm(net, body, batch_norm_name)
    return net.add("Activation", relu_name, normalised, act_type="relu")
