"""The optimizer's state of a checkpoint, as both engines look for it."""

from common.base.files import UserError


def find_state(saved, name, slot, shape):
    """Return what was saved of a parameter, `saved["state:NAME/SLOT"]`.

    Raises:
        UserError: there is nothing, or its shape is not that of the parameter.
    """
    array = saved.get(f"state:{name}/{slot}")
    go_on = "or remove the .states file to go on without it"
    if array is None:
        raise UserError(
            f"the checkpoint's .states file has nothing for {name} of this optimizer; use the"
            f" --optimizer, --mom and --freeze that it was written with, {go_on}"
        )
    if array.shape != tuple(shape):
        raise UserError(
            f"the checkpoint's .states file has {name} in the shape {array.shape}, here it is"
            f" {tuple(shape)}; use the --image-shape that it was written with, {go_on}"
        )
    return array
