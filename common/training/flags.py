"""The flags of training, and which of their values are refused."""

import logging
import math
import os

from common.base.files import MODEL_PREFIX, UserError
from common.base.help import number, whole
from common.engines import add_engine_arg
from common.training import recipes, schedule
from common.training.log_lines import add_log_args

DTYPES = ("float32", "float16", "bfloat16")
KV_STORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async")


def add_fit_args(parser):
    """Add the flags of training, in groups."""
    devices_group = parser.add_argument_group("Devices")
    add_engine_arg(devices_group)
    devices_group.add_argument(
        "--gpus",
        default="",
        help="GPUs that each batch is split over, e.g. 0,1,2,3; empty or cpu: the CPU;"
        " cpu:0,cpu:1: two CPU devices",
    )
    devices_group.add_argument(
        "--kv-store",
        default="device",
        choices=KV_STORES,
        metavar="NAME",
        help="how devices share gradients: device, local, nccl; dist_sync, dist_device_sync,"
        " dist_async on several machines (cluster.sh)",
    )
    devices_group.add_argument(
        "--gc-type",
        default="none",
        choices=["none", "2bit"],
        help="compression of the gradients sent between devices (not with local)",
    )
    devices_group.add_argument(
        "--gc-threshold", type=number, default=0.5, help="threshold of the 2bit compression"
    )
    devices_group.add_argument(
        "--sync-batch-norm",
        action="store_true",
        help="BatchNorm: statistics of the batch of all devices together, not of each device's part"
        " (PyTorch only)",
    )
    devices_group.add_argument(
        "--loss-scale",
        type=number,
        default=128.0,
        help="factor of the loss in float16, so that small gradients do not become 0",
    )

    schedule.add_schedule_args(parser)

    group = parser.add_argument_group("Training")
    recipes.add_recipe_arg(group)
    group.add_argument(
        "--batch-size", type=whole, default=48, help="images in a batch of all devices together"
    )
    group.add_argument(
        "--accumulate",
        type=whole,
        default=1,
        metavar="N",
        help="batches of one update: the mean of their gradients counts, and the memory is that of"
        " one batch",
    )
    group.add_argument(
        "--label-smoothing",
        type=number,
        default=0.0,
        help="share of the label that is spread over the other classes, 0 to below 1",
    )
    group.add_argument(
        "--logit-adjustment",
        type=number,
        default=0.0,
        metavar="TAU",
        help="add TAU times the logarithm of a class's share of the training images to its logit"
        " in the loss, so that rare classes are predicted as often as they should; e.g. 1; 0: off",
    )
    group.add_argument(
        "--layer-decay",
        type=number,
        default=1.0,
        help="factor of the learning rate from each layer to the one before it, e.g. 0.8 (networks"
        " of timm)",
    )
    group.add_argument(
        "--ema",
        type=number,
        default=0.0,
        metavar="DECAY",
        help="decay of a moving average of the weights (0.999), saved as MODEL-PREFIX-ema; 0: none",
    )
    group.add_argument(
        "--top-k",
        default="5",
        help="top-k accuracies to report, e.g. 3,5; 1 and 5 are always reported",
    )

    add_log_args(parser.add_argument_group("Log"))

    group = parser.add_argument_group("Checkpoints")
    group.add_argument(
        "--model-prefix",
        default=MODEL_PREFIX,
        help="prefix of the names of all files of this run",
    )
    group.add_argument(
        "--load-epoch",
        type=whole,
        default=0,
        help="0: start from the pretrained network; N: resume after epoch N of --model-prefix",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="resume from the newest complete checkpoint; where there is none, start, or go on"
        " after --load-epoch",
    )
    group.add_argument(
        "--keep",
        type=whole,
        default=0,
        metavar="N",
        help="keep the N newest checkpoints and the best by validation top-5; 0: all",
    )
    group.add_argument(
        "--tensorboard",
        metavar="DIR",
        help="write TensorBoard's event files too, to DIR/NAME of a run of the prefix FOLDER/NAME",
    )
    group.add_argument(
        "--initial-validation",
        type=whole,
        default=1,
        choices=[0, 1],
        help="1: validate before the first epoch, too",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="train on one batch, report what a run would need, write nothing",
    )


def check_flags(args, engine):
    """Refuse flags that make no sense, before any long work; warn of those that look wrong."""
    for warning in schedule.check_schedule(args, engine):
        logging.warning(warning)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: must be 1 or more")
    if args.accumulate < 1:
        raise UserError(f"--accumulate {args.accumulate}: must be 1 or more")
    if not 0 <= args.label_smoothing < 1:
        raise UserError(f"--label-smoothing {args.label_smoothing}: must be 0 to below 1")
    if not 0 <= args.logit_adjustment <= 10:
        raise UserError(f"--logit-adjustment {args.logit_adjustment}: must be 0 to 10, e.g. 1")
    if not 0 < args.layer_decay <= 1:
        raise UserError(f"--layer-decay {args.layer_decay}: must be more than 0 and at most 1")
    if args.ema and not 0 < args.ema < 1:
        raise UserError(f"--ema {args.ema}: the decay must lie between 0 and 1, e.g. 0.999")
    if args.keep < 0 or args.load_epoch < 0 or args.disp_batches < 1:
        raise UserError("--keep and --load-epoch must be 0 or more, --disp-batches 1 or more")
    if not (0 < args.loss_scale < math.inf and 0 < args.gc_threshold < math.inf):
        raise UserError("--loss-scale and --gc-threshold must be more than 0")
    if args.gc_type != "none" and args.kv_store == "local":
        raise UserError(f"--gc-type {args.gc_type}: is not for --kv-store local; take device")
    if args.dtype not in DTYPES:
        raise UserError(f"--dtype {args.dtype}: must be one of {', '.join(DTYPES)}")
    parse_top_k(args.top_k)
    folder = os.path.dirname(os.path.abspath(args.model_prefix))
    if os.path.basename(args.model_prefix) in ("", ".", ".."):
        raise UserError(
            f"--model-prefix {args.model_prefix}: add what the names of the files begin with"
        )
    if not os.path.isdir(folder):
        raise UserError(f"--model-prefix {args.model_prefix}: there is no folder {folder}; make it")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--model-prefix {args.model_prefix}: {folder} may not be written to")


def parse_top_k(text):
    """Return the numbers of `--top-k 3,5`, with 1 and 5, in increasing order."""
    try:
        chosen = {int(k) for k in text.split(",") if k.strip()}
    except ValueError:
        chosen = {0}
    if not all(k > 0 for k in chosen):
        raise UserError(
            f"--top-k {text}: not whole numbers from 1 on, separated by commas, e.g. 3,5"
        )
    return sorted({1, 5} | chosen)
