"""The end of a network: every classifier here ends in a `SoftmaxOutput`, whoever made it."""

from common.files import UserError
from common.find_mxnet import mx
from common.network import WITHOUT_HEAD, read_graph

# Ends that give no logits: other losses, and activations of features or of single labels.
_OTHER_ENDS = (
    "null",
    "LogisticRegressionOutput",
    "LinearRegressionOutput",
    "MAERegressionOutput",
    "SVMOutput",
    "MakeLoss",
    "make_loss",
    "Activation",
    "LeakyReLU",
    "relu",
    "sigmoid",
    "softmin",
    "tanh",
)


def end_in_softmax(symbol):
    """Return a network of logits or of a plain softmax (Gluon exports both) with its SoftmaxOutput.

    Raises:
        UserError: the network has several outputs, or is no classifier of classes that exclude
            each other.
    """
    outputs = symbol.list_outputs()
    if len(outputs) != 1:
        some = ", ".join(outputs[:3])
        raise UserError(f"has {len(outputs)} outputs ({some} ...); a classifier has one")
    graph = read_graph(symbol)
    nodes = graph["nodes"]
    last = nodes[graph["heads"][0][0]]
    operator, attributes = last["op"], last.get("attrs", {})
    if operator == "SoftmaxOutput":
        return symbol
    if [node["name"] for node in nodes[-2:]] == WITHOUT_HEAD:
        raise UserError(
            "has no classifier; give it one: python fine-tune.py --pretrained-model PREFIX"
        )
    if operator in _OTHER_ENDS:
        raise UserError(
            f"ends in {last['name']} ({operator}), and not in a softmax or its logits; it is no"
            " classifier that can be used here"
        )
    if operator in ("softmax", "log_softmax", "SoftmaxActivation"):
        symbol = symbol.get_children()[0]
        if attributes.get("temperature", "None") != "None":
            symbol = symbol / float(attributes["temperature"])
    return mx.sym.SoftmaxOutput(symbol, name="softmax")
