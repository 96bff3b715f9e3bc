"""Networks of random weights for the tests, drawn as MXNet's Module draws them."""

from common.networks import Network, edits


def with_random_weights(graph, side, seed, **xavier):
    """Return the `Network` of a graph for images of `side` pixels; `xavier`: MXNet's settings."""
    from common.engines.mxnet.precision import to_symbol
    from common.engines.mxnet.runtime import mx

    mx.random.seed(seed)
    module = mx.mod.Module(to_symbol(graph))
    module.bind([("data", (1, 3, side, side))], [("softmax_label", (1,))])
    module.init_params(mx.init.Xavier(**xavier))
    params, stats = (
        {name: array.asnumpy() for name, array in arrays.items()} for arrays in module.get_params()
    )
    return Network(graph, params, stats, edits.find_head(graph)[0])


def for_raw_images(network):
    """Return the network with statistics of its input as photographs have them, 0 to 255."""
    network.stats["bn_data_moving_mean"][:] = 120
    network.stats["bn_data_moving_var"][:] = 3600
    return network
