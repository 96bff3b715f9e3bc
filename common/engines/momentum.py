"""Momentum correction: a velocity that holds the learning rate follows it when it changes.

MXNet's SGD keeps `velocity = momentum * velocity - rate * gradient` and adds it to the weight. Past
gradients therefore keep the rate that they came with: after a step of the rate by 0.1 they count
ten times as much as the new ones. Goyal et al. 2017 (arXiv:1706.02677, section 3) multiply
the velocity with `new rate / old rate` whenever the rate changes. The update is then that of the
usual rule, `velocity = momentum * velocity + gradient` and `weight -= rate * velocity`.

| optimizer of MXNet | its velocity holds the rate |
| --- | --- |
| sgd, lbsgd, lars | yes |
| nag | from MXNet 1.6 on; that of 1.5 does not |
| signum | no |
| ccsgd, dcasgd | they run without momentum |
| the others | have no momentum to set |

A factor of the rate for one layer (`--head-lr-mult`) is in both rates and cancels. Both rates are
those of the schedule, so nothing has to be saved; a run that is resumed with another `--lr` keeps
the velocity that it had.
"""

_HOLD_THE_RATE = ("sgd", "lbsgd", "lars")


def rate_ratio(old, new):
    """Return what a velocity is multiplied with when the rate changes from `old` to `new`.

    A warm-up begins at rate 0: there is no velocity yet, and the ratio is 1.
    """
    return new / old if old > 0 else 1.0


def holds_rate(optimizer, mxnet_version):
    """Return whether the velocity of this optimizer holds the rate, e.g. in MXNet "1.9.1"."""
    name = optimizer.lower()
    if name == "nag":
        major, minor = mxnet_version.split(".")[:2]
        return (int(major), int(minor)) >= (1, 6)
    return name in _HOLD_THE_RATE
