"""The learning rate of every update, and the flags of the optimizer."""

import math
from dataclasses import dataclass
from typing import Tuple

from common.base.files import UserError
from common.base.help import TypedAction, number, whole


def add_schedule_args(parser):
    """Add the flags of the optimizer and its learning rate."""
    group = parser.add_argument_group("Schedule", "the optimizer and its learning rate")
    group.add_argument("--num-epochs", type=whole, default=30, help="epochs of the whole run")
    group.add_argument(
        "--patience",
        type=whole,
        default=0,
        metavar="N",
        help="stop when validation's top-1 accuracy has not improved for N epochs; 0: never",
    )
    group.add_argument("--lr", type=number, default=0.01, help="learning rate of the first epoch")
    group.add_argument(
        "--lr-factor", type=number, default=0.1, help="factor of the rate at each step"
    )
    group.add_argument(
        "--lr-step-epochs",
        default="10,20",
        action=TypedAction,
        help="epochs at whose beginning the rate steps; empty: none",
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
        help="epochs in which the rate grows from 0 to --lr; may be a fraction, e.g. 0.5",
    )
    group.add_argument(
        "--optimizer",
        default="sgd",
        help="any of MXNet's, by its name; adamw with --engine torch",
    )
    group.add_argument("--mom", type=number, default=0.0, help="momentum, 0 to below 1")
    group.add_argument(
        "--momentum-correction",
        type=whole,
        default=1,
        choices=[0, 1],
        help="1: the velocity follows the rate when it changes; 0: it keeps the old rate, as in"
        " MXNet",
    )
    group.add_argument("--wd", type=number, default=0.0, help="weight decay")
    group.add_argument(
        "--clip-norm",
        type=number,
        default=0.0,
        help="bound of the norm of all gradients together, e.g. 1; 0: none",
    )
    return group


def parse_step_epochs(text):
    """Return the epochs of `--lr-step-epochs 10,20` as a list of increasing integers.

    Raises:
        UserError: not integers from 1 on, or not in increasing order.
    """
    try:
        steps = [int(step) for step in text.split(",") if step.strip()]
    except ValueError:
        raise UserError(
            f"--lr-step-epochs {text}: not epochs separated by commas, e.g. 10,20"
        ) from None
    if any(step < 1 for step in steps) or sorted(set(steps)) != steps:
        raise UserError(f"--lr-step-epochs {text}: epochs must increase, and begin at 1 or later")
    return steps


def check_schedule(args, engine):
    """Raise `UserError` for schedule flags that make no sense; return warnings to log.

    `engine` says which optimizers it has (`common.engines`).
    """
    if args.num_epochs < 1:
        raise UserError(f"--num-epochs {args.num_epochs}: must be 1 or more")
    if args.patience < 0:
        raise UserError(f"--patience {args.patience}: must be 0 or more")
    if not 0 < args.lr < math.inf:
        raise UserError(f"--lr {args.lr}: must be more than 0")
    if not 0 < args.lr_factor <= 1:
        raise UserError(f"--lr-factor {args.lr_factor}: must be more than 0 and at most 1")
    if not 0 <= args.mom < 1:
        raise UserError(f"--mom {args.mom}: must be from 0 to below 1")
    if not 0 <= args.wd < math.inf:
        raise UserError(f"--wd {args.wd}: must be 0 or more")
    if not 0 <= args.clip_norm < math.inf:
        raise UserError(f"--clip-norm {args.clip_norm}: must be 0 or more")
    if not 0 <= args.warmup_epochs < args.num_epochs:
        raise UserError(f"--warmup-epochs {args.warmup_epochs}: must be 0 to below --num-epochs")
    warnings = _check_optimizer(args, engine)
    steps = parse_step_epochs(args.lr_step_epochs)
    if len(steps) > args.num_epochs and "lr_step_epochs" in getattr(args, "typed", []):
        raise UserError(
            f"--lr-step-epochs {args.lr_step_epochs}: has more steps than"
            f" --num-epochs {args.num_epochs} has epochs"
        )
    late = [step for step in steps if step >= args.num_epochs]
    if late and args.lr_scheduler == "step":
        warnings.append(
            f"--lr-step-epochs {args.lr_step_epochs}: the rate steps at epochs that"
            f" --num-epochs {args.num_epochs} does not reach: {', '.join(map(str, late))}"
        )
    return warnings


def _check_optimizer(args, engine):
    name, optimizers = args.optimizer.lower(), engine.optimizers()
    if name not in optimizers:
        raise UserError(f"--optimizer {name}: not one of {engine.NAME}'s: {', '.join(optimizers)}")
    if not args.mom:
        return []
    if "momentum" not in optimizers[name]:
        return [f"--mom {args.mom}: {name} has no momentum to set, and trains without"]
    problem = optimizers[name]["momentum"]
    if problem:
        raise UserError(f"--mom {args.mom}: {problem}")
    return []


def of_flags(args, updates_an_epoch):
    """Return the `Schedule` of a whole run, with its steps exactly at the epochs' boundaries."""
    return Schedule(
        kind=args.lr_scheduler,
        base_rate=args.lr,
        factor=args.lr_factor,
        step_updates=tuple(
            epoch * updates_an_epoch for epoch in parse_step_epochs(args.lr_step_epochs)
        ),
        warmup_updates=round(args.warmup_epochs * updates_an_epoch),
        num_updates=args.num_epochs * updates_an_epoch,
    )


def update_after(number, num_batches, accumulate):
    """Return which update of an epoch, 1 or more, follows batch `number`, from 0 on.

    None where more of the `accumulate` batches of an update are to come. The last update of an
    epoch is made with the batches that are left.
    """
    if (number + 1) % accumulate and number + 1 < num_batches:
        return None
    return number // accumulate + 1


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the update's number.

    Attributes:
        kind: "step" or "cosine".
        base_rate: of the first update after the warm-up.
        factor: of the rate at each step.
        step_updates: a step takes effect in the update after this many.
        warmup_updates: in these the rate grows from 0 to `base_rate`.
        num_updates: of the whole run; the cosine ends there.
    """

    kind: str
    base_rate: float
    factor: float
    step_updates: Tuple[int, ...]
    warmup_updates: int
    num_updates: int

    def rate(self, update):
        """Return the rate of an update, 1 or more, exactly as `mx.lr_scheduler` computes it."""
        if update < self.warmup_updates:
            return self.base_rate * update / self.warmup_updates
        if self.kind == "cosine":
            share = min(update, self.num_updates) - self.warmup_updates
            span = max(1, self.num_updates - self.warmup_updates)  # 0: the run is all warm-up
            return self.base_rate * (1 + math.cos(math.pi * share / span)) / 2
        rate = self.base_rate
        for step in self.step_updates:
            if update > step:
                rate *= self.factor
        return rate
