"""The end of a network: every classifier here ends in a `SoftmaxOutput`, whatever made it."""

from common.base.files import UserError
from common.networks.edits import WITHOUT_HEAD
from common.networks.graph import Builder, ending_at, outputs

# Operators that do not give logits: other losses, and activations of features or single labels.
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


def end_in_softmax(graph):
    """Return the network with a SoftmaxOutput, if it ends in logits or in a plain softmax.

    Gluon exports both.

    Raises:
        UserError: the network has several outputs, or is not a classifier of mutually exclusive
            classes.
    """
    names = outputs(graph)
    if len(names) != 1:
        some = ", ".join(names[:3])
        raise UserError(f"has {len(names)} outputs ({some} ...); a classifier has one")
    nodes, end = graph["nodes"], graph["heads"][0]
    last = nodes[end[0]]
    operator, attributes = last["op"], last.get("attrs", {})
    if operator == "SoftmaxOutput":
        return graph
    if [node["name"] for node in nodes[-2:]] == WITHOUT_HEAD:
        raise UserError(
            "has no classifier; give it one: python fine-tune.py --pretrained-model PREFIX"
        )
    if operator in _OTHER_ENDS:
        raise UserError(
            f"ends in {last['name']} ({operator}), not in a softmax or its logits; use a"
            " network that ends in scores of classes"
        )
    builder = Builder()
    temperature = "None"
    if operator in ("softmax", "log_softmax", "SoftmaxActivation"):
        end, temperature = last["inputs"][0], attributes.get("temperature", "None")
    logits = builder.copy_of(ending_at(graph, end))
    if temperature != "None":
        name = builder.unique("_divscalar")
        logits = builder.add("_div_scalar", name, logits, scalar=float(temperature))
    return builder.graph(builder.add("SoftmaxOutput", "softmax", logits))
