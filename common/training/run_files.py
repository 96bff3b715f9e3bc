"""What a run leaves on the disk: checkpoints, log, learning curves, settings and classes."""

import datetime
import json
import logging
import os
import platform
import shutil
import subprocess
import sys

import numpy as np

from common.base.files import ROOT, UserError, atomic_open
from common.data import class_table
from common.networks import checkpoint
from common.networks.timm_network import TimmNetwork
from common.training import curves, event_files, state_owner
from common.training.flags import parse_top_k
from common.training.history import History, log_path
from common.training.log_lines import mxnet_lines


class RunFiles:
    """The files of one run: their names begin with `--model-prefix`.

    Attributes:
        history: the log, from `begin()` on.
    """

    def __init__(self, args, engine, network, begin_epoch, classes=None, val_list=None):
        """Prepare to write the checkpoints of `network`, whose first `begin_epoch` epochs are done.

        Args:
            classes: the `Classes` that are written beside the checkpoints; None: no file of them.
            val_list: of the `TrainingData`.
        """
        self._args, self._engine, self._network = args, engine, network
        self._begin_epoch, self._classes = begin_epoch, classes
        self._val_list = val_list
        self.history = None

    def check_disk(self, checkpoint_bytes):
        """Report what all checkpoints of this run need; refuse where the disk has too little."""
        args = self._args
        epochs = max(0, args.num_epochs - self._begin_epoch)
        # While one is written, there is one more than is kept; the best may be an older one.
        count = min(epochs, args.keep + 2) if args.keep else epochs
        need = count * checkpoint_bytes
        folder = os.path.dirname(os.path.abspath(args.model_prefix))
        free = shutil.disk_usage(folder).free
        needs = (
            f"{count} checkpoints need {need / 1e9:.2f} GB, {folder} has {free / 1e9:.2f} GB free"
        )
        if need > free:
            raise UserError(f"{needs}; free some space, or keep fewer: --keep 2")
        logging.info(needs)

    def begin(self, num_devices=1):
        """Start the log, and write what the checkpoints are made of and what their labels mean."""
        args, epochs_done = self._args, self._begin_epoch
        checkpoint.require_targets(args.model_prefix)
        checkpoint.require_one_kind(args.model_prefix, self._network)
        if not epochs_done:
            self._report_earlier_run()
        if args.tensorboard:  # before the log of an earlier run is begun anew
            os.makedirs(self._events_folder(), exist_ok=True)
        trains = epochs_done < args.num_epochs
        top_ks = parse_top_k(args.top_k)
        self.history = History(log_path(args.model_prefix), top_ks, epochs_done, trains)
        if args.tensorboard and trains:
            event_files.forget_after(self._events_folder(), self._run_name(), epochs_done)
        if not trains:
            logging.info("%d epochs are trained already: nothing is left to do", epochs_done)
            return
        if epochs_done:
            self._compare_devices(num_devices)
            self._compare_val_list()
        self._write_config(num_devices)
        if self._classes is not None:
            class_table.write_tables(self._prefixes(), self._classes, epochs_done)

    def _report_earlier_run(self):
        """Warn that this run overwrites the checkpoints of an earlier one."""
        prefix = self._args.model_prefix
        earlier = [epoch for epoch in checkpoint.find_epochs(prefix) if epoch]
        if earlier and not self._args.resume:  # which has named those that it passes over
            logging.warning(
                "%s: has %d checkpoints of an earlier run, up to epoch %d, which this run"
                " overwrites from epoch 1 on; to keep them, stop it, and go on with --resume or"
                " choose another --model-prefix",
                *(prefix, len(earlier), earlier[-1]),
            )

    def save(self, epochs_done, state, columns):
        """Write a checkpoint, then its row of the log, which marks it as one of this run.

        Args:
            state: the `TrainerState`.
            columns: of the log's row, `{name: text}`.
        """
        prefix, network, version = (
            self._args.model_prefix,
            self._network,
            self._engine.SYMBOL_VERSION,
        )
        if state.average is not None:
            averages = {**state.params, **state.average}
            averaged = network.with_arrays(averages, state.stats)
            checkpoint.save(prefix + checkpoint.AVERAGE, epochs_done, averaged, version=version)
        trained = network.with_arrays(state.params, state.stats)
        states = state_owner.with_name(state, self._args.optimizer.lower())
        checkpoint.save(prefix, epochs_done, trained, states, version)
        self.history.update(epochs_done, columns)
        mxnet_lines.info('Saved checkpoint to "%s"', checkpoint.weights_path(prefix, epochs_done))

    def draw_curves(self):
        """Draw the learning curves of the log, for TensorBoard too."""
        if self.history.rows:
            prefix = self._args.model_prefix
            curves.plot_curves(log_path(prefix), f"{prefix}-curves.png")
            if self._args.tensorboard:
                epoch, row = max(self.history.rows.items())
                event_files.write_epoch(self._events_folder(), self._run_name(), epoch, row)

    def _events_folder(self):
        """Return the folder of this run's events: TensorBoard takes a folder for one run."""
        return os.path.join(self._args.tensorboard, self._run_name())

    def _run_name(self):
        return os.path.basename(self._args.model_prefix)

    def prune(self, epochs_done):
        """Remove the checkpoints that `--keep` does not keep."""
        if not self._args.keep:
            return
        best = self.history.best_epoch()
        for prefix in self._prefixes():
            checkpoint.prune(prefix, self._args.keep, epochs_done, best)

    def how_to_resume(self, saved):
        """Return in words what a run that stopped after `saved` epochs can be resumed from."""
        if not saved:
            return "no epoch was finished, so the run begins anew"
        path = checkpoint.weights_path(self._args.model_prefix, saved)
        return f"the last checkpoint is {path}: go on with --resume, or --load-epoch {saved}"

    def _prefixes(self):
        """Return the prefixes of the checkpoints: of the weights, and of their average."""
        prefix = self._args.model_prefix
        return [prefix, prefix + checkpoint.AVERAGE] if self._args.ema else [prefix]

    def _compare_devices(self, num_devices):
        """Report where the epochs so far were trained on another number of devices."""
        path = checkpoint.config_path(self._args.model_prefix)
        before = read_config(path).get("devices")
        if before not in (None, num_devices):
            logging.warning(
                "%s: trained on %s device(s) so far, on %d from here on: BatchNorm normalises other"
                " parts of a batch, and dropout draws other numbers; the images and their order"
                " stay the same",
                path,
                before,
                num_devices,
            )

    def _compare_val_list(self):
        """Report where the epochs so far were validated on records of another list."""
        path = checkpoint.config_path(self._args.model_prefix)
        before = read_config(path).get("val_list")
        if self._val_list and before not in (None, self._val_list):
            logging.warning(
                "%s: validation was on records of another list so far: it may score photographs now"
                " that this run was trained on",
                path,
            )

    def _write_config(self, num_devices):
        flags = dict(vars(self._args))
        if self._begin_epoch:  # the network stays what the run began with
            before = flags_before(self._args.model_prefix)
            flags.update((name, before[name]) for name in of_the_start(self._network) & set(before))
        config = {
            "devices": num_devices,
            "flags": flags,
            "val_list": self._val_list,
            "command": sys.argv,
            "head": self._network.head,
            "versions": {
                **self._engine.versions(),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "git_revision": _git_revision(),
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        for prefix in self._prefixes():
            with atomic_open(checkpoint.config_path(prefix)) as stream:
                json.dump(config, stream, indent=1, default=str)


def of_the_start(network):
    """Return the names of fine-tune.py's flags that shape a network before its first epoch."""
    names = {"from_scratch", "layer_before_fullc", "pretrained_epoch", "rgb_mean", "rgb_std"}
    return names if isinstance(network, TimmNetwork) else {*names, "dropout"}


def flags_before(prefix):
    """Return the flags that a run had before it goes on, a dict; empty where they are not known."""
    flags = read_config(checkpoint.config_path(prefix)).get("flags")
    return flags if isinstance(flags, dict) else {}


def read_config(path):
    """Return what was run, a dict; empty where there is no such file, or it is damaged."""
    try:
        with open(path, encoding="utf-8") as stream:
            config = json.load(stream)
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _git_revision():
    """Return the revision of this checkout, or None outside of one."""
    git = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
