"""What is counted in an epoch, and the log of all epochs."""

import numpy as np
import pytest

from common.base.files import UserError
from common.evaluation import metrics
from common.training.history import History, Tally, last_epoch, read_rows


def test_scores_are_those_of_the_metrics_room():
    random = np.random.RandomState(0)
    labels = random.randint(0, 30, 200)
    probabilities = random.dirichlet(np.ones(30), 200).astype(np.float32)
    tally = Tally([1, 5])
    for start in range(0, 200, 48):  # batches, the last of them short
        tally.add(probabilities[start : start + 48], labels[start : start + 48])
    ranked = metrics.top_k(probabilities, 5)
    for k in (1, 5):
        assert tally.accuracy(k) == pytest.approx(1 - metrics.top_k_error(ranked, labels, k))
    expected = -np.log(probabilities[np.arange(200), labels]).mean()
    assert tally.loss == pytest.approx(expected, rel=1e-5)


def test_a_network_that_believes_in_all_classes_alike_is_given_no_credit():
    tally = Tally([1, 5])
    tally.add(np.full((4, 10), 0.1, np.float32), np.array([0, 3, 5, 9], np.float32))
    assert tally.accuracy(5) == 0
    assert tally.loss == pytest.approx(np.log(10))


def test_a_loss_that_is_no_number_shows():
    tally = Tally([1])
    tally.add(np.full((1, 3), np.nan, np.float32), np.zeros(1))
    assert np.isnan(tally.loss)
    assert tally.accuracy(1) == 0


def test_a_resumed_log_drops_the_epochs_that_are_trained_again(tmp_path):
    path = str(tmp_path / "log.csv")
    log = History(path, [1, 5])
    for epoch in (1, 2, 3):
        log.update(epoch, {"lr": "0.1", "loss": f"{epoch}.0", "val_top5": "0.5"})
    resumed = History(path, [1, 5], epochs_done=2)
    assert sorted(resumed.rows) == [1, 2]
    assert last_epoch(path) == 2
    resumed.update(2, {"val_top5": "0.75"})
    with open(path) as stream:
        lines = stream.read().splitlines()
    assert lines[0].startswith("epoch,lr,loss,top1,top5,val_loss,val_top1,val_top5,images_per")
    assert [line.split(",")[:3] for line in lines[1:]] == [["1", "0.1", "1.0"], ["2", "0.1", "2.0"]]


def test_a_resumed_log_keeps_the_columns_that_are_counted_no_more(tmp_path):
    path = str(tmp_path / "log.csv")
    History(path, [1, 3]).update(1, {"loss": "1.0", "top3": "0.75"})
    History(path, [1], epochs_done=1).update(2, {"loss": "0.5"})
    rows = read_rows(path)
    assert rows[1]["top3"] == "0.75" and rows[2]["top3"] == ""


def test_a_run_with_nothing_to_train_keeps_all_rows(tmp_path):
    path = str(tmp_path / "log.csv")
    log = History(path, [1])
    for epoch in (1, 2, 3):
        log.update(epoch, {"loss": "1.0"})
    History(path, [1], epochs_done=2, trains=False)
    assert sorted(read_rows(path)) == [1, 2, 3]


def test_a_new_run_does_not_keep_the_log_of_an_earlier_one(tmp_path):
    path = str(tmp_path / "log.csv")
    assert last_epoch(path) is None
    History(path, [1]).update(1, {"loss": "1.0"})
    assert last_epoch(path) == 1
    History(path, [1])
    assert last_epoch(path) == 0
    History(path, [1], epochs_done=7)  # a checkpoint that came without a log
    assert last_epoch(path) == 7


def test_the_best_epoch_is_the_one_of_the_best_top5_then_top1(tmp_path):
    log = History(str(tmp_path / "log.csv"), [1, 5])
    assert log.best_epoch() is None
    for epoch, top1, top5 in ((0, 0.9, 0.99), (1, 0.5, 0.8), (2, 0.6, 0.8), (3, 0.7, 0.7)):
        log.update(epoch, {"val_top1": f"{top1}", "val_top5": f"{top5}", "val_loss": "1.0"})
    assert log.best_epoch() == 2


def test_the_epochs_since_the_first_of_the_best_top1_are_counted(tmp_path):
    path = str(tmp_path / "log.csv")
    log = History(path, [1])
    assert log.epochs_since_best() == 0
    # That before training does not count; an epoch as good as the best is no gain.
    for epoch, top1 in enumerate((0.9, 0.2, 0.5, 0.4, 0.5)):
        log.update(epoch, {"val_top1": f"{top1:.6f}"})
    assert log.epochs_since_best() == 2
    assert History(path, [1], epochs_done=3).epochs_since_best() == 1  # of a resumed run
    log.update(5, {"val_top1": "0.600000"})
    assert log.epochs_since_best() == 0


def test_a_log_that_is_none_is_named(tmp_path):
    path = tmp_path / "log.csv"
    for content in ("to,be\nor,not\n", "", "epoch,loss\n1,0.x5\n", "epoch,loss\n1,0.5,7\n"):
        path.write_text(content)
        with pytest.raises(UserError, match="not the log of a training run"):
            History(str(path), [1], epochs_done=1)


def test_rows_that_are_lost_are_told(tmp_path, caplog):
    path = str(tmp_path / "log.csv")
    log = History(path, [1])
    for epoch in (2, 3):
        log.update(epoch, {"loss": "1.0"})
    History(path, [1], epochs_done=4)  # a run may end before the fourth row is written
    assert "log.csv: has no rows of 1 epochs" in caplog.text
