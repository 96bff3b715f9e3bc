"""The learning rate over the epochs."""

import pytest

from common import engines
from common.base.files import UserError
from common.base.help import Parser
from common.engines.mxnet.runtime import mx
from common.training import schedule

BATCHES = 7


def parse(*flags):
    parser = Parser()
    schedule.add_schedule_args(parser)
    return parser.parse_args(flags)


def rates(args, begin_epoch=0, batches=BATCHES):
    """The learning rate of every update from `begin_epoch` on; the first update is 1."""
    rate = schedule.of_flags(args, batches).rate
    first = begin_epoch * batches + 1
    return [rate(update) for update in range(first, args.num_epochs * batches + 1)]


def mxnets_scheduler(args, batches):
    """MXNet's own scheduler of the flags."""
    warmup = {"base_lr": args.lr, "warmup_steps": round(args.warmup_epochs * batches)}
    if args.lr_scheduler == "cosine":
        return mx.lr_scheduler.CosineScheduler(args.num_epochs * batches, **warmup)
    steps = [epoch * batches for epoch in schedule.parse_step_epochs(args.lr_step_epochs)]
    return mx.lr_scheduler.MultiFactorScheduler(steps or [2**62], args.lr_factor, **warmup)


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


def test_an_update_follows_a_batch_or_several_and_the_last_ones_of_an_epoch():
    assert [schedule.update_after(number, 4, 1) for number in range(4)] == [1, 2, 3, 4]
    updates = [schedule.update_after(number, 8, 3) for number in range(8)]
    assert updates == [None, None, 1, None, None, 2, None, 3]
    assert [schedule.update_after(number, 2, 5) for number in range(2)] == [None, 1]


SCHEDULES = [
    ("--lr-step-epochs", "2,5"),
    ("--lr-step-epochs", "2,5", "--lr-factor", "0.3", "--lr", "0.007"),
    ("--lr-step-epochs", ""),
    ("--lr-scheduler", "cosine"),
    ("--lr-scheduler", "cosine", "--warmup-epochs", "2.3", "--lr", "0.07"),
    ("--warmup-epochs", "1.5", "--lr-step-epochs", "3"),
    ("--warmup-epochs", "3.1", "--lr-step-epochs", "2,5", "--lr", "0.013"),
]


@pytest.mark.parametrize("flags", SCHEDULES)
@pytest.mark.parametrize("begin_epoch", [0, 1, 4, 7])
@pytest.mark.parametrize("batches", [1, 7, 1206])
def test_every_rate_is_that_of_mxnets_scheduler_to_the_bit(flags, begin_epoch, batches):
    """Update 0 too, whose rate momentum correction asks for. A resumed one catches up."""
    args = parse("--num-epochs", "8", *flags)
    plan, peer = schedule.of_flags(args, batches), mxnets_scheduler(args, batches)
    for update in range(begin_epoch * batches, 8 * batches + 1):
        assert plan.rate(update) == peer(update)


@pytest.mark.parametrize("flags", SCHEDULES)
@pytest.mark.parametrize("begin_epoch", [1, 4, 7])
def test_a_resumed_run_has_the_rates_of_an_uninterrupted_one(flags, begin_epoch):
    args = parse("--num-epochs", "8", *flags)
    assert rates(args, begin_epoch) == rates(args)[begin_epoch * BATCHES :]


def test_a_run_that_is_all_warm_up_ends_at_the_full_rate():
    args = parse("--num-epochs", "1", "--warmup-epochs", "0.99", "--lr-scheduler", "cosine")
    assert rates(args, batches=4) == [0.0025, 0.005, 0.0075, 0.01]


def test_cosine_and_warm_up_reach_their_ends():
    args = parse("--num-epochs", "4", "--lr-scheduler", "cosine", "--warmup-epochs", "1")
    by_update = rates(args)
    assert by_update[BATCHES - 1] == pytest.approx(0.01)
    assert by_update[-1] == pytest.approx(0)
    assert by_update[: BATCHES - 1] == sorted(by_update[: BATCHES - 1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr-step-epochs", "20,10"), "epochs must increase"),
        (("--lr-step-epochs", "0,10"), "begin at 1"),
        (("--lr-step-epochs", "ten"), "not epochs separated by commas"),
        (("--num-epochs", "0"), "--num-epochs 0: must be 1 or more"),
        (("--lr", "-1"), "--lr"),
        (("--lr", "nan"), "--lr: 'nan' is not a number"),
        (("--wd", "inf"), "--wd: 'inf' is not a number"),
        (
            ("--num-epochs", "2", "--lr-step-epochs", "1,2,3"),
            "has more steps than --num-epochs 2 has epochs",
        ),
        (("--optimizer", "sgdd"), "not one of MXNet's: .*adam"),
        (("--optimizer", "adamw"), "--optimizer adamw: not one of MXNet's"),
        (("--optimizer", "groupadagrad"), "not one of MXNet's"),
        (("--optimizer", "dcasgd", "--mom", "0.9"), "without momentum only: --mom 0"),
        (("--warmup-epochs", "30"), "below --num-epochs"),
        (("--clip-norm", "-1"), "--clip-norm -1.0: must be 0 or more"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        schedule.check_schedule(parse(*flags), engines.load())


def test_steps_past_the_last_epoch_are_told():
    (warning,) = schedule.check_schedule(parse("--num-epochs", "15"), engines.load())
    assert "does not reach: 20" in warning


def test_a_momentum_that_the_optimizer_has_not_is_told():
    args = parse("--optimizer", "adam", "--mom", "0.9")
    (warning,) = schedule.check_schedule(args, engines.load())
    assert "adam has no momentum" in warning


def test_only_optimizers_with_momentum_have_one_to_set():
    settings = engines.load().optimizers()
    for name, given in (("sgd", True), ("nag", True), ("adam", False)):
        assert ("momentum" in settings[name]) == given
