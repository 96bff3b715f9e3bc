"""The learning rate over the epochs, and the optimizer that follows it."""

import inspect
import math

from common.files import UserError
from common.find_mxnet import mx
from common.help import TypedAction, number, whole


def add_schedule_args(parser):
    """Add the flags of the optimizer and its learning rate."""
    group = parser.add_argument_group("Schedule", "the optimizer and its learning rate")
    group.add_argument("--num-epochs", type=whole, default=30, help="epochs of the whole run")
    group.add_argument("--lr", type=number, default=0.01, help="learning rate of the first epoch")
    group.add_argument(
        "--lr-factor", type=number, default=0.1, help="what each step multiplies the rate with"
    )
    group.add_argument(
        "--lr-step-epochs",
        default="10,20",
        action=TypedAction,
        help="epochs at whose beginning the rate steps; empty: never",
    )
    group.add_argument(
        "--lr-scheduler",
        choices=["step", "cosine"],
        default="step",
        help="steps, or half a cosine from --lr down to 0 at the last epoch",
    )
    group.add_argument(
        "--warmup-epochs",
        type=number,
        default=0,
        help="epochs in which the rate grows from 0 to --lr, 0.5 is half a one",
    )
    group.add_argument("--optimizer", default="sgd", help="any of MXNet's, by its name")
    group.add_argument("--mom", type=number, default=0.0, help="momentum, 0 to 1")
    group.add_argument(
        "--momentum-correction",
        type=whole,
        default=1,
        choices=[0, 1],
        help="1: the velocity follows the rate when it changes; 0: it goes on at the old rate,"
        " as in MXNet",
    )
    group.add_argument("--wd", type=number, default=0.0, help="weight decay")
    return group


def parse_step_epochs(text):
    """Return the epochs of `--lr-step-epochs 10,20` as a list of increasing integers.

    Raises:
        UserError: not integers of 1 and more, or not in increasing order.
    """
    try:
        steps = [int(step) for step in text.split(",") if step.strip()]
    except ValueError:
        raise UserError(f"--lr-step-epochs {text}: not epochs apart by commas, as 10,20") from None
    if any(step < 1 for step in steps) or sorted(set(steps)) != steps:
        raise UserError(f"--lr-step-epochs {text}: epochs must grow, and begin at 1 or later")
    return steps


def check_schedule(args):
    """Raise `UserError` for schedule flags that make no sense; return warnings to log."""
    if args.num_epochs < 1:
        raise UserError(f"--num-epochs {args.num_epochs}: must be 1 or more")
    if not 0 < args.lr < math.inf:
        raise UserError(f"--lr {args.lr}: must be more than 0")
    if not 0 < args.lr_factor <= 1:
        raise UserError(f"--lr-factor {args.lr_factor}: must be more than 0 and at most 1")
    if not 0 <= args.mom < 1:
        raise UserError(f"--mom {args.mom}: must be from 0 to below 1")
    if not 0 <= args.wd < math.inf:
        raise UserError(f"--wd {args.wd}: must be 0 or more")
    if not 0 <= args.warmup_epochs < args.num_epochs:
        raise UserError(f"--warmup-epochs {args.warmup_epochs}: must be 0 to below --num-epochs")
    warnings = _check_optimizer(args)
    steps = parse_step_epochs(args.lr_step_epochs)
    if len(steps) > args.num_epochs and "lr_step_epochs" in getattr(args, "typed", []):
        raise UserError(
            f"--lr-step-epochs {args.lr_step_epochs}: are more steps than the epochs of"
            f" --num-epochs {args.num_epochs}"
        )
    late = [step for step in steps if step >= args.num_epochs]
    if late and args.lr_scheduler == "step":
        warnings.append(
            f"--lr-step-epochs {args.lr_step_epochs}: the rate steps at epochs that"
            f" --num-epochs {args.num_epochs} does not reach: {', '.join(map(str, late))}"
        )
    return warnings


def optimizers():
    """Return the names of MXNet's optimizers that train networks like these."""
    for_embeddings_and_tests = {"groupadagrad", "test"}
    return sorted(set(mx.optimizer.Optimizer.opt_registry) - for_embeddings_and_tests)


def takes_momentum(optimizer):
    """Return whether MXNet's optimizer of that name has a momentum to set."""
    kind = mx.optimizer.Optimizer.opt_registry[optimizer.lower()]
    return "momentum" in inspect.signature(kind.__init__).parameters


def _check_optimizer(args):
    name = args.optimizer.lower()
    if name not in optimizers():
        raise UserError(f"--optimizer {name}: not one of MXNet's: {', '.join(optimizers())}")
    if name == "dcasgd" and args.mom:  # its momentum fails inside MXNet (1.5.0 and 1.9.1)
        raise UserError(f"--mom {args.mom}: MXNet's dcasgd works without momentum only: --mom 0")
    if args.mom and not takes_momentum(name):
        return [f"--mom {args.mom}: {name} has no momentum to set, and goes without"]
    return []


def make_scheduler(args, batches_per_epoch):
    """Return MXNet's scheduler of the flags, with its steps exactly at the epochs' boundaries.

    Always given the whole schedule: on resume it catches up by itself with the updates made.
    """
    warmup = {
        "base_lr": args.lr,
        "warmup_steps": round(args.warmup_epochs * batches_per_epoch),
        "warmup_begin_lr": 0.0,
    }
    if args.lr_scheduler == "cosine":
        return mx.lr_scheduler.CosineScheduler(args.num_epochs * batches_per_epoch, **warmup)
    steps = [epoch * batches_per_epoch for epoch in parse_step_epochs(args.lr_step_epochs)]
    if not steps:  # MXNet's scheduler asserts that there is one: take one that never comes
        steps = [2**62]
    return mx.lr_scheduler.MultiFactorScheduler(steps, factor=args.lr_factor, **warmup)


def optimizer_settings(args, batches_per_epoch, begin_epoch, dtype):
    """Return the keyword arguments with which MXNet makes the optimizer `args.optimizer`.

    Args:
        batches_per_epoch: updates in one epoch (of all workers, where they update on their own).
        begin_epoch: epochs already trained; the schedule and Adam's counters go on from there.
    """
    settings = {
        "learning_rate": args.lr,
        "wd": args.wd,
        "lr_scheduler": make_scheduler(args, batches_per_epoch),
        "begin_num_update": begin_epoch * batches_per_epoch,
        "multi_precision": dtype == "float16",
    }
    if takes_momentum(args.optimizer):
        settings["momentum"] = args.mom
    return settings
