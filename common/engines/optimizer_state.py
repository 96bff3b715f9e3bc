"""The optimizer's state of a checkpoint, as both engines look for it."""

from itertools import count, takewhile

from common.base.files import UserError

SLOTS = "slots"  # the array of a `.states` file that holds `TrainerState.slots`


def find_state(saved, name, shapes, weights_last):
    """Return (arrays of the state, weights or None) of what was saved of a parameter.

    Training in float16 also saves the weights in float32, which another precision does without.

    Args:
        saved: `{"state:NAME/0": array, SLOTS: [number]}`. Older files do not hold the number: one
            array more than `shapes` is the weights there.
        shapes: of the arrays of the state alone.
        weights_last: whether the weights stand behind the state, as SGD, NAG and LARS of MXNet have
            it, or before it.

    Raises:
        UserError: there is too little, or its shape is another one.
    """
    numbered = (saved.get(f"state:{name}/{number}") for number in count())
    arrays, weights = list(takewhile(lambda array: array is not None, numbered)), None
    slots = int(saved[SLOTS][0]) if SLOTS in saved else len(shapes)
    if len(arrays) == slots + 1:
        weights = arrays.pop(-1 if weights_last else 0)
    go_on = "or remove the .states file to go on without it"
    if len(arrays) < len(shapes):
        raise UserError(
            f"the checkpoint's .states file has nothing for {name} of this optimizer; use the"
            f" --optimizer, --mom and --freeze that it was written with, {go_on}"
        )
    for array, shape in zip(arrays, shapes):
        if array.shape != tuple(shape):
            raise UserError(
                f"the checkpoint's .states file has {name} in the shape {array.shape}, here it is"
                f" {tuple(shape)}; use the --image-shape that it was written with, {go_on}"
            )
    return arrays, weights
