"""Step 3: fine-tune a pretrained network on the records, with a checkpoint after every epoch.

    sh run.sh                                       the flags of the 2017 baseline, to edit
    python fine-tune.py --pretrained-model model/resnet-152 --gpus 0,1,2,3
    python fine-tune.py --data-dir data/sample --pretrained-model model/efficientnet-lite0 \\
        --image-shape 3,224,224 --batch-size 16 --num-epochs 8 --mom 0.9

Reads DATA-DIR/train.rec and val.rec (gen_rec.sh makes them) and the pretrained network. Writes
after every epoch N: MODEL-PREFIX-N.params and .states (checkpoint), MODEL-PREFIX-log.csv and
-curves.png (how it goes); once: MODEL-PREFIX-symbol.json, -config.json (what was run) and
-classes.csv (what the labels mean, where a JSON, a class file or the list's folders say so).
"""

import logging
import math

from common import (
    checkpoint,
    class_table,
    data,
    devices,
    fit,
    fit_checks,
    fit_flags,
    modelzoo,
    network,
    torch_networks,
    workers,
)
from common.files import UserError
from common.help import HelpFormatter, Parser, number, whole
from common.script import run_script


def main():
    args = parse_args()
    kv_store = workers.make_kv_store(args.kv_store)
    workers.start_log(kv_store)
    fit_flags.check_flags(args)
    contexts = devices.contexts(args.gpus)
    fit_flags.settle_dtype(args.dtype, contexts)
    fit_flags.check_kv_store(args.kv_store, contexts)

    train, val = data.get_record_iterators(
        args, workers.rank(kv_store), workers.num_workers(kv_store)
    )
    try:
        if args.preview:
            return data.preview(train, args.preview)
        if args.test_io:
            return data.measure_reading(train)
        fit_checks.check_batch_size(args, contexts)
        with fit.only_run(args, kv_store):
            fine_tune(args, train, val, contexts, kv_store)
    finally:
        train.close()
        if val is not None:
            val.close()


def fine_tune(args, train, val, contexts, kv_store):
    """Train the pretrained network, or go on with a checkpoint."""
    begin_epoch = fit.first_epoch(args)
    workers.check_same_epoch(kv_store, begin_epoch)
    classes = None
    if not args.dry_run and not workers.rank(kv_store):
        classes = class_table.classes_of_run(args, train.num_classes, begin_epoch)
    if begin_epoch:
        source = checkpoint.params_path(args.model_prefix, begin_epoch)
        symbol, arg_params, aux_params = checkpoint.load(args.model_prefix, begin_epoch)
        head, _ = network.find_head(symbol)
    else:
        source = args.pretrained_model
        symbol, arg_params, aux_params, head = swap_pretrained_head(args, train.num_classes)
    symbol = network.take_raw_images(symbol)
    symbol = network.smooth_labels(symbol, args.label_smoothing)
    untrained = () if begin_epoch else ("" if args.from_scratch else head,)  # "" begins all
    fit_checks.check_params(symbol, arg_params, aux_params, train.image_shape, untrained, source)
    fit_checks.check_num_classes(arg_params, head, train.num_classes)
    network_parts = (symbol, arg_params, aux_params, head)
    fit.fit(args, *network_parts, train, val, contexts, kv_store, begin_epoch, classes)


def swap_pretrained_head(args, num_classes):
    """Return `(symbol, arg_params, aux_params, head)` of the pretrained network with a new head."""
    symbol, arg_params, aux_params = modelzoo.load_pretrained(
        args.pretrained_model, epoch=args.pretrained_epoch, variant=args.variant
    )
    symbol, arg_params, head = network.swap_head(
        symbol, arg_params, num_classes, args.layer_before_fullc, args.dropout
    )
    symbol = data.normalize_input(symbol, args)
    if args.from_scratch:
        logging.info("--from-scratch: the weights of %s are not used", args.pretrained_model)
        arg_params, aux_params = network.keep_normalisation(symbol, arg_params, aux_params)
    return symbol, arg_params, aux_params, head


def parse_args():
    parser = Parser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    group = parser.add_argument_group("Network")
    group.add_argument(
        "--pretrained-model",
        default="model/resnet-152",
        help="prefix of local files, a name of the catalogue (python -m common.modelzoo list),"
        " or a PyTorch or ONNX file, whatever it is called",
    )
    group.add_argument(
        "--variant",
        choices=torch_networks.LITE0_VARIANTS,
        help="of an EfficientNet-Lite0 in a PyTorch file (default: as the file's name begins)",
    )
    group.add_argument(
        "--pretrained-epoch",
        type=whole,
        help="which .params file of the prefix, where there are several",
    )
    group.add_argument(
        "--layer-before-fullc",
        metavar="NAME",
        help="layer that the new head comes after; by itself: before the last FullyConnected",
    )
    group.add_argument(
        "--head-lr-mult",
        type=number,
        default=1.0,
        help="factor of the learning rate for the new head, as 10",
    )
    group.add_argument(
        "--freeze",
        metavar="PATTERN",
        help="regular expression of parameter names that stay as they are, as 'conv0|stage[12]'",
    )
    group.add_argument(
        "--dropout",
        type=number,
        default=0.0,
        help="share of features dropped before the head, 0 to 1",
    )
    group.add_argument(
        "--from-scratch", action="store_true", help="take the network, but random weights"
    )
    fit_flags.add_fit_args(parser)
    data.add_data_args(parser)
    data.add_data_aug_args(parser)
    args = parser.parse_args()
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout {args.dropout}: must be 0 to below 1")
    if not 0 <= args.head_lr_mult < math.inf:
        raise UserError(f"--head-lr-mult {args.head_lr_mult}: must be 0 or more")
    return args


if __name__ == "__main__":
    run_script(main)
