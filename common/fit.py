"""Training: the epochs, their checkpoints, and what is told about them."""

import contextlib
import datetime
import json
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import time

import numpy as np

from common import checkpoint, class_table, devices, network, report, schedule
from common.files import ROOT, UserError, atomic_open, held
from common.find_mxnet import mx
from common.fit_flags import parse_top_k
from common.history import EpochMeter, History, Tally, last_epoch, log_path
from common.moving_average import MovingAverage
from common.trainer import Trainer
from common.workers import num_workers, rank


def only_run(args, kv_store):
    """Return a context in which no other run may train to `--model-prefix`.

    It begins before a network is loaded: a second one could take the first one's memory.
    """
    if args.dry_run or rank(kv_store):
        return contextlib.nullcontext()
    return held(args.model_prefix, "training to it")


def first_epoch(args):
    """Return how many epochs are trained already: `--load-epoch`, or what `--resume` finds."""
    if not args.resume:
        return args.load_epoch
    last = last_epoch(log_path(args.model_prefix))
    epoch, complaints = checkpoint.newest_whole(args.model_prefix, last)
    for complaint in complaints:
        logging.warning("passed over: %s", complaint)
    if epoch:
        logging.info("resuming from %s", checkpoint.params_path(args.model_prefix, epoch))
    else:
        logging.info("no checkpoint of %s: starting afresh", args.model_prefix)
    return epoch


def fit(
    args, symbol, arg_params, aux_params, head, train, val, contexts, kv_store, begin_epoch, classes
):
    """Train from `begin_epoch` to `--num-epochs`, with a checkpoint after each.

    Args:
        symbol: the network in float32; `head` is the name of its last layer.
        train, val: iterators of data.py; `val` may be None.
        begin_epoch: epochs already trained; their checkpoint is `arg_params` and `aux_params`.
        classes: the `Classes` that are written beside the checkpoints; None: no file of them.

    Raises:
        UserError: the loss is no number any more, the disk is too small, or a file is damaged.
    """
    run = Run(args, symbol, arg_params, aux_params, head, train, val, contexts, kv_store)
    run.classes = classes
    run.start(begin_epoch)
    if args.dry_run:
        run.tell_needs()
    else:
        run.train_epochs()


class Run:
    """One training: its trainer, its log and its files."""

    def __init__(self, args, symbol, arg_params, aux_params, head, train, val, contexts, kv_store):
        self.args, self.symbol, self.head = args, symbol, head
        self.train, self.val, self.kv_store = train, val, kv_store
        self.top_ks = parse_top_k(args.top_k)
        self.is_first = rank(kv_store) == 0
        self.classes = None
        frozen = ()
        if args.freeze:
            symbol, frozen = network.freeze(symbol, args.freeze)
            logging.info("--freeze %s: %d parameters stay as they are", args.freeze, len(frozen))
        head_parameters = (f"{head}_weight", f"{head}_bias")
        # Every random number that MXNet draws hangs on the seed and the epoch: a resumed run
        # draws what an uninterrupted one would.
        seed_mxnet(args.seed, 0)
        self.trainer = Trainer(
            symbol,
            contexts,
            (args.batch_size, *train.image_shape),
            dtype=args.dtype,
            frozen=frozen,
            loss_scale=args.loss_scale if args.dtype == "float16" else 1.0,
            learning_rate_factors=dict.fromkeys(head_parameters, args.head_lr_mult),
            compression=None
            if args.gc_type == "none"
            else {"type": args.gc_type, "threshold": args.gc_threshold},
        )
        self.trainer.initialise(arg_params, aux_params)

    def start(self, begin_epoch):
        """Make the optimizer, with its state after `begin_epoch` epochs."""
        args = self.args
        self.begin_epoch = begin_epoch
        updates = self.train.num_batches
        if args.kv_store == "dist_async":
            updates *= num_workers(self.kv_store)
        states = checkpoint.load_states(args.model_prefix, begin_epoch) if begin_epoch else {}
        self.trainer.start_optimizer(
            self.kv_store,
            args.optimizer,
            schedule.optimizer_settings(args, updates, begin_epoch, args.dtype),
            states,
            correct_momentum=bool(args.momentum_correction),
        )
        if begin_epoch and not states and self.trainer.checkpoint_bytes()[1]:
            # The servers of dist_async keep the state, and no file does.
            path = checkpoint.states_path(args.model_prefix, begin_epoch)
            logging.warning("%s: not found; the optimizer begins without a past", path)
        self.average = None
        if args.ema:
            self.average = MovingAverage(args.ema, self.trainer.weights())
            prefix = f"{args.model_prefix}-ema"
            path = checkpoint.params_path(prefix, begin_epoch)
            if begin_epoch and os.path.exists(path):
                self.average.restore(checkpoint.load(prefix, begin_epoch)[1], path)
            elif begin_epoch:
                logging.warning("%s: not found; the moving average begins with these weights", path)

    def train_epochs(self):
        """Train, save and validate every epoch that is left."""
        args = self.args
        saved = self.begin_epoch
        try:
            if self.is_first:
                self._check_disk()
                checkpoint.require_targets(args.model_prefix)
                log = log_path(args.model_prefix)
                self.history = History(log, self.top_ks, saved)
                if saved < args.num_epochs:
                    self._write_config()
                    self._write_classes()
                else:
                    logging.info("%d epochs are trained already: nothing is left to do", saved)
                if args.initial_validation or self.history.lacks_validation(saved):
                    self._validate(saved)
                self._draw_curves()  # where the run was killed before it did
                self._prune(saved)
            for epoch in range(saved, args.num_epochs):
                meter = self.train_epoch(epoch)
                if self.is_first:
                    self._save(epoch + 1, meter)
                    saved = epoch + 1
                    self._validate(saved)
                    self._draw_curves()
                    self._prune(saved)
        except (KeyboardInterrupt, OSError):  # stopped, or the disk is full
            if self.is_first:
                logging.warning("stopped; %s", self._way_on(saved))
            raise

    def _way_on(self, saved):
        if not saved:
            return "no epoch was finished, so the run begins anew"
        path = checkpoint.params_path(self.args.model_prefix, saved)
        return f"the last checkpoint is {path}: go on with --resume, or --load-epoch {saved}"

    def _diverged(self, what, saved):
        lower = "--lr or --loss-scale" if self.args.dtype == "float16" else "--lr"
        return UserError(f"{what}; {self._way_on(saved)}, with a lower {lower}")

    def train_epoch(self, epoch):
        """Train with every batch once; returns the `EpochMeter` that has counted them."""
        seed_mxnet(self.args.seed, epoch, rank(self.kv_store))
        self.train.set_epoch(epoch)
        meter = EpochMeter(epoch, self.train, self.args.disp_batches, self.top_ks)
        # Counted one batch late, so that Python never waits for the batch that it has just queued.
        waiting = None
        with meter:
            for number, batch in enumerate(self.train):
                outputs = self.trainer.train(batch)
                if self.average is not None:
                    self.average.update(self.trainer.weights())
                if waiting is not None:
                    self._count(meter, epoch, *waiting)
                waiting = (number, batch, outputs)
            if waiting is not None:
                self._count(meter, epoch, *waiting)
            self.trainer.settle()
        meter.log_epoch()
        return meter

    def _count(self, meter, epoch, number, batch, outputs):
        size = len(outputs) - batch.pad
        meter.add(number, outputs.asnumpy()[:size], batch.label[0].asnumpy()[:size])
        if not math.isfinite(meter.tally.loss):
            what = f"the loss is no number any more in epoch {epoch}, batch {number}"
            raise self._diverged(what, epoch)

    def _save(self, epochs_done, meter):
        """Write the checkpoint, then its row of the log, which says that it is of this run."""
        arg_params, aux_params = self.trainer.params()
        for name, array in {**arg_params, **aux_params}.items():
            # Activations such as ReLU turn NaN into 0, so that the loss alone may hide it.
            if not np.isfinite(array.asnumpy()).all():
                what = f"the weights are no numbers any more after epoch {epochs_done - 1} ({name})"
                raise self._diverged(what, epochs_done - 1)
        prefix = self.args.model_prefix
        if self.average is not None:
            averages = {**arg_params, **self.average.weights}
            checkpoint.save(f"{prefix}-ema", epochs_done, self.symbol, averages, aux_params)
        checkpoint.save(
            prefix, epochs_done, self.symbol, arg_params, aux_params, self.trainer.states()
        )
        self.history.update(
            epochs_done,
            {
                "lr": f"{self.trainer.learning_rate:g}",
                **meter.tally.row(),
                "images_per_second": f"{meter.images_per_second:.2f}",
                "seconds": f"{meter.seconds:.2f}",
            },
        )
        logging.info('Saved checkpoint to "%s"', checkpoint.params_path(prefix, epochs_done))

    def _validate(self, epochs_done):
        """Score the validation set, and put it into the log."""
        if self.val is None:
            return
        tally = Tally(self.top_ks)
        self.val.set_epoch(0)  # its order is always the same
        for batch in self.val:
            size = len(batch.label[0]) - batch.pad
            labels = batch.label[0].asnumpy()[:size]
            tally.add(self.trainer.predict(batch)[:size], labels)
        # MXNet counts epochs from 0 in its lines: Epoch[0] leaves checkpoint 1.
        title = (
            f"Epoch[{epochs_done - 1}] Validation" if epochs_done else "Before training: validation"
        )
        for name, value in tally.named():
            logging.info("%s-%s=%f", title, name, value)
        self.history.update(epochs_done, tally.row("val_"))

    def _draw_curves(self):
        if self.history.rows:
            prefix = self.args.model_prefix
            report.plot_curves(log_path(prefix), f"{prefix}-curves.png")

    def _prune(self, epochs_done):
        if self.args.keep:
            best = self.history.best_epoch()
            checkpoint.prune(self.args.model_prefix, self.args.keep, epochs_done, best)
            if self.average is not None:
                prefix = f"{self.args.model_prefix}-ema"
                checkpoint.prune(prefix, self.args.keep, epochs_done, best)

    def _checkpoint_bytes(self):
        params, states = self.trainer.checkpoint_bytes()
        averages = () if self.average is None else self.average.weights.values()
        return params + sum(4 * array.size for array in averages) + states

    def _check_disk(self):
        """Tell what all checkpoints of this run need; refuse where the disk has not as much."""
        args = self.args
        epochs = max(0, args.num_epochs - self.begin_epoch)
        # One more than are kept is there while it is written, and the best may be an older one.
        count = min(epochs, args.keep + 2) if args.keep else epochs
        need = count * self._checkpoint_bytes()
        folder = os.path.dirname(os.path.abspath(args.model_prefix))
        free = shutil.disk_usage(folder).free
        told = (
            f"{count} checkpoints need {need / 1e9:.2f} GB, {folder} has {free / 1e9:.2f} GB free"
        )
        if need > free:
            raise UserError(f"{told}; free some space, or keep fewer: --keep 2")
        logging.info(told)

    def _write_config(self):
        """Leave beside the checkpoints how they were made."""
        config = {
            "flags": vars(self.args),
            "command": sys.argv,
            "head": self.head,
            "versions": {
                "mxnet": mx.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "git_revision": git_revision(),
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with atomic_open(f"{self.args.model_prefix}-config.json") as stream:
            json.dump(config, stream, indent=1, default=str)

    def _write_classes(self):
        """Leave beside the checkpoints what their labels mean."""
        if self.classes is not None:
            prefix = self.args.model_prefix
            prefixes = [prefix] if self.average is None else [prefix, f"{prefix}-ema"]
            class_table.settle_tables(prefixes, self.classes, self.begin_epoch)

    def tell_needs(self):
        """Go through one batch twice, and tell time, memory and disk; nothing is written."""
        self.train.set_epoch(self.begin_epoch)
        batch = next(iter(self.train))
        seconds = []
        for _ in range(2):  # the first one also makes the plans of the convolutions
            start = time.monotonic()
            probabilities = self.trainer.train(batch).asnumpy()
            self.trainer.settle()
            seconds.append(time.monotonic() - start)
        if not np.isfinite(probabilities).all():
            raise UserError("the network gives no numbers for the first batch; check its weights")
        self.train.close()
        self._check_disk()
        epoch = seconds[1] * self.train.num_batches
        logging.info(
            "network: %s images, %d classes, %.1f M parameters",
            "x".join(map(str, self.train.image_shape)),
            self.train.num_classes,
            sum(array.size for array in self.trainer.weights().values()) / 1e6,
        )
        contexts = self.trainer.contexts
        threads = os.environ["OMP_NUM_THREADS"]  # find_mxnet sets it where the user does not
        logging.info("devices: %s; CPU threads: %s", ", ".join(map(str, contexts)), threads)
        logging.info("memory: %s", devices.memory_in_use(contexts))
        logging.info(
            "dry run: a batch of %d takes %.2f s (%.1f images/s); an epoch of %d batches about %s,"
            " without validation; nothing was written",
            self.args.batch_size,
            seconds[1],
            self.args.batch_size / seconds[1],
            self.train.num_batches,
            datetime.timedelta(seconds=round(epoch)),
        )


def seed_mxnet(seed, epoch, worker=0):
    """Seed what MXNet draws (new weights, dropout) for one epoch of one worker."""
    mx.random.seed((seed * 1_000_003 + epoch * 1_009 + worker) % 2**31)


def git_revision():
    """Return the revision of this checkout, or None outside of one."""
    git = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
