"""Training: the epochs, their validation, and what is reported of them."""

import contextlib
import datetime
import logging
import math
import os
import time

import numpy as np

from common.base.files import UserError, exclusive_lock
from common.base.processor import usable_cores
from common.data.sampling import class_shares
from common.engines import TrainerOptions
from common.networks import checkpoint
from common.training import schedule, state_owner
from common.training.flags import parse_top_k
from common.training.history import EpochMeter, Tally, count, last_epoch, log_path
from common.training.log_lines import EpochLines, bar_title, mxnet_lines
from common.training.run_files import RunFiles

_DRY_RUN_SECONDS = 3.0


def only_run(args, workers):
    """Return a context in which no other run may train to `--model-prefix`.

    It begins before a network is loaded: a second one could take the first one's memory.
    """
    if args.dry_run or workers.rank:
        return contextlib.nullcontext()
    return exclusive_lock(args.model_prefix, "training to it")


def first_epoch(args, workers):
    """Return how many epochs are trained already: `--load-epoch`, or what `--resume` finds.

    With both, `--load-epoch` is the least: a second stage does not begin with the first one.

    Raises:
        UserError: this worker's files are of another epoch than the first worker's.
    """
    epoch = _newest_epoch(args) if args.resume else args.load_epoch
    if epoch < args.load_epoch:
        epoch = args.load_epoch
        logging.info("starting after epoch %d: --load-epoch", epoch)
    firsts = workers.agree(epoch)
    if firsts != epoch:
        raise UserError(
            f"worker {workers.rank} has a checkpoint of epoch {epoch}, the first worker one"
            f" of epoch {firsts:.0f}; copy the files of --model-prefix to every machine"
        )
    return epoch


def _newest_epoch(args):
    last = last_epoch(log_path(args.model_prefix))
    epoch, complaints = checkpoint.newest_whole(args.model_prefix, last, bool(args.ema))
    for complaint in complaints:
        logging.warning("passed over: %s", complaint)
    if epoch:
        logging.info("resuming from %s", checkpoint.weights_path(args.model_prefix, epoch))
    else:
        logging.info("no checkpoint of %s: starting from the beginning", args.model_prefix)
    return epoch


class Run:
    """One training run: its trainer, its epochs and its files."""

    def __init__(self, args, engine, network, data, devices, workers, begin_epoch, classes=None):
        """Prepare to train from `begin_epoch` to `--num-epochs`.

        Args:
            engine: of `common.engines`.
            network: in float32; where epochs are trained already, their checkpoint.
            data: the `TrainingData`.
            classes: the `Classes` that are written beside the checkpoints; None: no file of them.
        """
        self.args, self.engine, self.data, self.devices = args, engine, data, devices
        self.begin_epoch, self.top_ks = begin_epoch, parse_top_k(args.top_k)
        self.workers, self.is_first = workers, workers.rank == 0
        self._require_same_data()
        # In dist_async every worker's gradients are an update of their own.
        num_batches = len(data.train)
        updates = schedule.update_after(num_batches - 1, num_batches, args.accumulate)
        self._updates_an_epoch = updates * (workers.size if workers.is_async else 1)
        self.schedule = schedule.of_flags(args, self._updates_an_epoch)
        self.files = RunFiles(args, engine, network, begin_epoch, classes, data.val_list)
        frozen = ()
        if args.freeze:
            network, frozen = network.freeze(args.freeze)
            logging.info("--freeze %s: %d parameters stay as they are", args.freeze, len(frozen))
        options = self._options(network.head_params(), frozen)
        self.trainer = engine.Trainer(network, devices, options, workers)
        if begin_epoch:
            self._restore()

    def _require_same_data(self):
        """Raise `UserError` where this worker has other numbers of batches than the first one."""
        for name in ("train", "val") if self.workers.is_joint else ("train",):
            loader = getattr(self.data, name)
            own = 0 if loader is None else len(loader)
            firsts = self.workers.agree(own)
            if firsts != own:
                raise UserError(
                    f"worker {self.workers.rank} has {own} batches of {name}.rec, the first worker"
                    f" {firsts:.0f}; copy the same records to every machine"
                )

    def _options(self, head_params, frozen):
        args = self.args
        name = args.optimizer.lower()
        settings = {"wd": args.wd}
        if "momentum" in self.engine.optimizers()[name]:
            settings["momentum"] = args.mom
        compression = {"type": args.gc_type, "threshold": args.gc_threshold}
        return TrainerOptions(
            batch_size=args.batch_size,
            image_shape=self.data.train.image_shape,
            schedule=self.schedule,
            dtype=args.dtype,
            compiled=args.compile,
            optimizer=name,
            optimizer_settings=settings,
            updates_done=self.begin_epoch * self._updates_an_epoch,
            correct_momentum=bool(args.momentum_correction),
            frozen=frozen,
            loss_scale=args.loss_scale if args.dtype == "float16" else 1.0,
            learning_rate_factors=dict.fromkeys(head_params, args.head_lr_mult),
            compression=None if args.gc_type == "none" else compression,
            average_decay=args.ema,
            sync_batch_norm=args.sync_batch_norm,
            layer_decay=args.layer_decay,
            seed=args.seed,
            clip_norm=args.clip_norm,
            logit_adjustment=self._logit_adjustment(),
            soft_classes=self.data.num_classes if self.data.train.mixing else 0,
        )

    def _logit_adjustment(self):
        """Return what the loss adds to the logits (Menon et al. 2021, arXiv:2007.07314)."""
        labels = self.data.train_labels
        if not self.args.logit_adjustment or labels is None:
            return None
        shares = class_shares(labels, self.data.num_classes, self.args.class_balance)
        return (self.args.logit_adjustment * np.log(shares)).astype(np.float32)

    def _restore(self):
        """Give the trainer what the checkpoint keeps beside the weights."""
        args, epoch = self.args, self.begin_epoch
        states = checkpoint.load_states(args.model_prefix, epoch)
        _, state_bytes, _ = self.trainer.checkpoint_bytes()
        if not states and state_bytes:
            # The servers of dist_async keep the state, and no file does.
            path = checkpoint.states_path(args.model_prefix, epoch)
            logging.warning("%s: not found; the optimizer starts without its state", path)
        if states:
            path = checkpoint.states_path(args.model_prefix, epoch)
            state_owner.require_same(states, args.optimizer.lower(), path)
            self.trainer.restore_optimizer(states)
        if args.ema:
            prefix = args.model_prefix + checkpoint.AVERAGE
            path = checkpoint.weights_path(prefix, epoch)
            if not os.path.exists(path):
                logging.warning("%s: not found; the moving average starts from these weights", path)
                return
            average = checkpoint.load(prefix, epoch)
            try:
                self.trainer.restore_average(average.params)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None

    def train_epochs(self):
        """Train, save and validate every epoch that is left.

        Raises:
            UserError: the loss became NaN or infinite, the disk is too small, or a file is damaged.
        """
        saved = self.begin_epoch
        if not self.is_first and self.workers.is_joint:
            # So far every worker has found the same; an image that cannot be read has one reader.
            logging.getLogger().setLevel(logging.WARNING)
        try:
            if self.is_first:
                self.files.check_disk(sum(self.trainer.checkpoint_bytes()))
                self.files.begin(len(self.devices) * self.workers.num_machines)
            begins_with_validation = self._begins_with_validation()
            if begins_with_validation:
                self._validate(saved)
            if self.is_first:
                lines = EpochLines(self.args, self.files.history, saved)
                if begins_with_validation:
                    lines.log_first()
                self.files.draw_curves()  # where the run was killed before it did
                self.files.prune(saved)
            for epoch in range(saved, self.args.num_epochs):
                if self._has_stalled():
                    break
                meter = self.train_epoch(epoch)
                if self.is_first or self.workers.is_joint:
                    self._save(epoch + 1, meter)
                    saved = epoch + 1
                    self._validate(saved)
                if self.is_first:
                    lines.log(saved)
                    self.files.draw_curves()
                    self.files.prune(saved)
        except (KeyboardInterrupt, OSError):  # stopped, or the disk is full
            if self.is_first:
                logging.warning("stopped; %s", self.files.how_to_resume(saved))
            raise

    def _begins_with_validation(self):
        """Return whether this worker validates before the first epoch; the first one decides."""
        history = self.files.history
        decides = self.is_first and (
            self.args.initial_validation or history.lacks_validation(self.begin_epoch)
        )
        return self.workers.sum([bool(decides)])[0] > 0

    def _has_stalled(self):
        """Return whether `--patience` is at its end; the first worker, who has the log, decides."""
        patience = self.args.patience
        if not patience:
            return False
        stalled = self.is_first and self.files.history.epochs_since_best() >= patience
        if not self.workers.sum([stalled])[0]:
            return False
        logging.info("--patience %d: validation's top-1 accuracy has not improved: stops", patience)
        return True

    def train_epoch(self, epoch):
        """Train with every batch once; return the `EpochMeter` that has counted them."""
        train = self.data.train
        self.trainer.begin_epoch(epoch)
        train.set_epoch(epoch)
        updates_before = epoch * self._updates_an_epoch
        title = bar_title(self.args, epoch)
        meter = EpochMeter(epoch, train, self.args.disp_batches, self.top_ks, title)
        # Counted one batch late, so that Python never waits for the batch that it has just queued.
        waiting = None
        with meter, contextlib.closing(iter(train)) as batches:
            for number, batch in enumerate(batches):
                update = schedule.update_after(number, len(train), self.args.accumulate)
                rate = None if update is None else self.schedule.rate(updates_before + update)
                read = self.trainer.step(batch, rate)
                if waiting is not None:
                    self._count(meter, epoch, *waiting)
                waiting = (number, batch, read)
            if waiting is not None:
                self._count(meter, epoch, *waiting)
            self.trainer.synchronize()
        meter.log_epoch()
        return meter

    def _count(self, meter, epoch, number, batch, read):
        size = len(batch.labels) - batch.pad
        counts = count(read()[:size], batch.labels[:size], self.top_ks)
        meter.add(number, self.workers.sum(counts))
        if not math.isfinite(meter.tally.loss):
            what = f"the loss became NaN or infinite in epoch {epoch}, batch {number}"
            raise self._diverged(what, epoch)

    def _save(self, epochs_done, meter):
        state = self.trainer.state()
        for name, array in {**state.params, **state.stats}.items():
            # Activations such as ReLU turn NaN into 0, so that the loss alone may hide it.
            if not np.isfinite(array).all():
                what = f"weights became NaN or infinite in epoch {epochs_done - 1} ({name})"
                raise self._diverged(what, epochs_done - 1)
        columns = {
            "lr": f"{self.schedule.rate(epochs_done * self._updates_an_epoch):g}",
            **meter.tally.row(),
            "images_per_second": f"{meter.images_per_second:.2f}",
            "seconds": f"{meter.seconds:.2f}",
        }
        if self.is_first:
            self.files.save(epochs_done, state, columns)

    def _diverged(self, what, saved):
        lower = "--lr or --loss-scale" if self.args.dtype == "float16" else "--lr"
        return UserError(f"{what}; {self.files.how_to_resume(saved)}, with a lower {lower}")

    def _validate(self, epochs_done):
        """Score the validation set, and put the scores into the log."""
        val = self.data.val
        if val is None:
            return
        tally = Tally(self.top_ks)
        val.set_epoch(0)  # its order is always the same
        with contextlib.closing(iter(val)) as batches:
            for batch in batches:
                size = len(batch.labels) - batch.pad
                tally.add(self.trainer.evaluate(batch)[:size], batch.labels[:size])
        tally.counts = self.workers.sum(tally.counts)
        if not self.is_first:
            return
        # MXNet counts epochs from 0 in its lines: Epoch[0] leaves checkpoint 1.
        title = (
            f"Epoch[{epochs_done - 1}] Validation" if epochs_done else "Before training: validation"
        )
        for name, value in tally.named():
            mxnet_lines.info("%s-%s=%f", title, name, value)
        self.files.history.update(epochs_done, tally.row("val_"))

    def report_needs(self):
        """Train on one batch some times, and report time, memory and disk; write nothing."""
        args, train = self.args, self.data.train
        train.set_epoch(self.begin_epoch)
        with contextlib.closing(iter(train)) as batches:
            batch = next(batches)
        rate = self.schedule.rate(self.begin_epoch * self._updates_an_epoch + 1)
        seconds = []
        # The first ones also plan the convolutions; on a GPU they take less than a second.
        while len(seconds) < 2 or (len(seconds) < 10 and sum(seconds) < _DRY_RUN_SECONDS):
            start = time.monotonic()
            probabilities = self.trainer.step(batch, rate)()
            self.trainer.synchronize()
            seconds.append(self.workers.agree(time.monotonic() - start))  # all stop together
        if not np.isfinite(probabilities).all():
            raise UserError(
                "the network's output for the first batch is NaN or infinite; check its weights"
            )
        train.close()
        self.files.check_disk(sum(self.trainer.checkpoint_bytes()))
        logging.info(
            "network: %s images, %d classes, %.1f M parameters",
            "x".join(map(str, train.image_shape)),
            self.data.num_classes,
            self.trainer.num_parameters / 1e6,
        )
        threads = os.environ.get("OMP_NUM_THREADS", usable_cores())
        logging.info("devices: %s; CPU threads: %s", ", ".join(map(str, self.devices)), threads)
        logging.info("memory: %s", self.engine.memory_in_use(self.devices))
        logging.info(
            "dry run: a batch of %d takes %.2f s (%.1f images/s); an epoch of %d batches about %s,"
            " without validation; nothing was written",
            args.batch_size,
            seconds[-1],
            args.batch_size / seconds[-1],
            len(train),
            datetime.timedelta(seconds=round(seconds[-1] * len(train))),
        )
