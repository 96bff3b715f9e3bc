"""The learning rate over the epochs."""

import pytest

from common import schedule
from common.files import UserError
from common.help import Parser

BATCHES = 7


def parse(*flags):
    parser = Parser()
    schedule.add_schedule_args(parser)
    return parser.parse_args(flags)


def rates(args, begin_epoch=0, batches=BATCHES):
    """The learning rate of every update from `begin_epoch` on; MXNet counts updates from 1."""
    scheduler = schedule.make_scheduler(args, batches)
    first = begin_epoch * batches + 1
    return [scheduler(update) for update in range(first, args.num_epochs * batches + 1)]


def test_the_2017_schedule_is_the_default():
    args = parse()
    by_epoch = rates(args)[::BATCHES]
    assert by_epoch == pytest.approx([0.01] * 10 + [0.001] * 10 + [0.0001] * 10)
    assert (args.mom, args.wd, args.optimizer, args.num_epochs) == (0, 0, "sgd", 30)


@pytest.mark.parametrize("batches", [1, 7, 12066])
def test_the_rate_steps_with_the_first_batch_of_an_epoch(batches):
    args = parse("--num-epochs", "3", "--lr-step-epochs", "1,2")
    by_update = rates(args, batches=batches)
    assert by_update[batches - 1 : batches + 1] == pytest.approx([0.01, 0.001])
    assert by_update[2 * batches - 1 : 2 * batches + 1] == pytest.approx([0.001, 0.0001])


@pytest.mark.parametrize(
    "flags",
    [
        ("--lr-step-epochs", "2,5"),
        ("--lr-step-epochs", ""),
        ("--lr-scheduler", "cosine"),
        ("--warmup-epochs", "1.5", "--lr-step-epochs", "3"),
    ],
)
@pytest.mark.parametrize("begin_epoch", [1, 4, 7])
def test_a_resumed_run_has_the_rates_of_an_uninterrupted_one(flags, begin_epoch):
    args = parse("--num-epochs", "8", *flags)
    assert rates(args, begin_epoch) == rates(args)[begin_epoch * BATCHES :]


def test_cosine_and_warm_up_reach_their_ends():
    args = parse("--num-epochs", "4", "--lr-scheduler", "cosine", "--warmup-epochs", "1")
    by_update = rates(args)
    assert by_update[BATCHES - 1] == pytest.approx(0.01)
    assert by_update[-1] == pytest.approx(0)
    assert by_update[: BATCHES - 1] == sorted(by_update[: BATCHES - 1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr-step-epochs", "20,10"), "epochs must grow"),
        (("--lr-step-epochs", "0,10"), "begin at 1"),
        (("--lr-step-epochs", "ten"), "not epochs apart by commas"),
        (("--num-epochs", "0"), "--num-epochs 0: must be 1 or more"),
        (("--lr", "-1"), "--lr"),
        (("--lr", "nan"), "--lr: 'nan' is no number"),
        (("--wd", "inf"), "--wd: 'inf' is no number"),
        (("--num-epochs", "2", "--lr-step-epochs", "1,2,3"), "more steps than the epochs of"),
        (("--optimizer", "sgdd"), "not one of MXNet's: .*adam"),
        (("--optimizer", "groupadagrad"), "not one of MXNet's"),
        (("--optimizer", "dcasgd", "--mom", "0.9"), "without momentum only: --mom 0"),
        (("--warmup-epochs", "30"), "below --num-epochs"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        schedule.check_schedule(parse(*flags))


def test_steps_past_the_last_epoch_are_told():
    (warning,) = schedule.check_schedule(parse("--num-epochs", "15"))
    assert "does not reach: 20" in warning


def test_a_momentum_that_the_optimizer_has_not_is_told():
    (warning,) = schedule.check_schedule(parse("--optimizer", "adam", "--mom", "0.9"))
    assert "adam has no momentum" in warning


def test_only_optimizers_with_momentum_are_given_one():
    for name, given in (("sgd", True), ("nag", True), ("adam", False)):
        settings = schedule.optimizer_settings(parse("--optimizer", name), BATCHES, 2, "float32")
        assert ("momentum" in settings) == given
        assert settings["begin_num_update"] == 2 * BATCHES
