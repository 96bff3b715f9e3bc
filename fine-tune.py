"""Step 3: fine-tune a pretrained network on the records, with a checkpoint after every epoch.

    sh run.sh                                       the flags of the 2017 baseline, to edit
    python fine-tune.py --pretrained-model model/resnet-152 --gpus 0,1,2,3
    python fine-tune.py --data-dir data/sample --pretrained-model model/efficientnet-lite0 \\
        --image-shape 3,224,224 --batch-size 16 --num-epochs 8 --mom 0.9
    python fine-tune.py --engine torch --pretrained-model timm:convnext_tiny.in12k --mom 0.9

Reads DATA-DIR/train.rec and val.rec (gen_rec.sh makes them) and the pretrained network. Writes
after every epoch N: MODEL-PREFIX-N.params and .states (checkpoint), MODEL-PREFIX-log.csv and
-curves.png (loss and accuracy); once: MODEL-PREFIX-symbol.json, -config.json (what was run) and
-classes.csv (what the labels mean, where a JSON, a class file or the list's folders say so). For a
network of timm: MODEL-PREFIX-N.safetensors in place of .params, -timm.json of -symbol.json.
"""

from common.base.script import run_script, stop_while_importing

stop_while_importing()

import logging
import math

from common.base.files import UserError
from common.base.help import HelpFormatter, Parser, number, whole
from common.base.processor import waiting_threads
from common.data import class_table
from common.data.flags import add_data_args, add_data_aug_args, parse_colors
from common.engines import require_engine_of_timm
from common.engines.choice import choose, on_cpu
from common.networks import Network, checkpoint, edits, pretrained, timm_pretrained, torch_networks
from common.training import batches, checks, fit, flags, log_lines, preview, recipes


def main():
    args = parse_args()
    of_timm = timm_pretrained.is_meant(args.pretrained_model, args.architecture)
    of_timm |= bool(args.resume or args.load_epoch) and checkpoint.is_run_of_timm(args.model_prefix)
    ways = {"compiled": args.compile, "tf32": args.tf32, "of_timm": of_timm}
    chosen = choose(args.engine, args.gpus, args.dtype, "train", **ways)
    engine, devices, _ = chosen
    if args.preview or args.test_io:
        devices = devices[:1]  # they compute nothing
    status = engine.launch(devices)
    if status is not None:
        return status
    workers = engine.Workers(args.kv_store, devices)
    log_lines.start(args, workers)
    recipes.report(args)
    flags.check_flags(args, engine)

    data = batches.open_batches(
        args,
        workers.machine,
        workers.num_machines,
        engine.allocate,
        workers.share,
        validates_part=workers.is_joint,
    )
    try:
        if args.preview:
            return preview.preview(data.train, args.preview)
        if args.test_io:
            return preview.measure_reading(data.train)
        checks.check_batch_size(args, devices)
        checks.check_patience(args, data, workers)
        with fit.only_run(args, workers):
            fine_tune(args, chosen, data, workers)
            workers.close()
    finally:
        data.close()


def fine_tune(args, chosen, data, workers):
    """Train the pretrained network, or resume from a checkpoint, with the engine of `choose`."""
    engine, devices, reason = chosen
    begin_epoch = fit.first_epoch(args, workers)
    classes = None
    if not args.dry_run and not workers.rank:
        classes = class_table.classes_of_run(args, data.num_classes, begin_epoch)
    if begin_epoch:
        source = checkpoint.weights_path(args.model_prefix, begin_epoch)
        network = load_checkpoint(args, engine, data, begin_epoch)
    else:
        checks.check_pretrained_stays(args)
        source = args.pretrained_model
        network = swap_pretrained_head(args, engine, data)
    network = network.smooth_labels(args.label_smoothing)
    # Parameters whose names begin with one of these may be missing; all names begin with "".
    untrained = () if begin_epoch else ("" if args.from_scratch else network.head,)
    checks.check_params(network, engine, data.train.image_shape, untrained, source)
    checks.check_num_classes(network, data.num_classes)
    logging.info("engine: %s, %s", engine.NAME, reason)
    if on_cpu(args.gpus):
        logging.info("threads wait for each other: %s", waiting_threads())
    run = fit.Run(args, engine, network, data, devices, workers, begin_epoch, classes)
    if args.dry_run:
        run.report_needs()
    else:
        run.train_epochs()


def load_checkpoint(args, engine, data, epoch):
    """Return the network of a checkpoint of this run."""
    network = checkpoint.load(args.model_prefix, epoch)
    if checkpoint.is_timm(args.model_prefix, epoch):
        require_engine_of_timm(engine, checkpoint.weights_path(args.model_prefix, epoch))
        checks.report_unused_flags(args, network)
        network = with_drop_rates(network, args)
        return network.for_images(data.train.image_shape)
    checks.check_graph_flags(args)
    checks.report_unused_flags(args, network)
    network.head, _ = edits.find_head(network.graph)
    return network.with_graph(edits.take_raw_images(network.graph))


def swap_pretrained_head(args, engine, data):
    """Return the pretrained network with a new head."""
    if timm_pretrained.is_meant(args.pretrained_model, args.architecture):
        return swap_timm_head(args, engine, data)
    checks.check_graph_flags(args)
    network = pretrained.load_pretrained(
        args.pretrained_model,
        engine.infer_shapes,
        epoch=args.pretrained_epoch,
        variant=args.variant,
        image_shape=data.train.image_shape,
    )
    graph, params, head = edits.swap_head(
        network.graph, network.params, data.num_classes, args.layer_before_fullc, args.dropout
    )
    mean, std = parse_colors("--rgb-mean", args.rgb_mean), parse_colors("--rgb-std", args.rgb_std)
    graph, stats = edits.normalize_input(graph, mean, std), network.stats
    if args.from_scratch:
        logging.info("--from-scratch: the weights of %s are not used", args.pretrained_model)
        params, stats = edits.keep_normalisation(graph, params, stats)
    return Network(edits.take_raw_images(graph), params, stats, head)


def swap_timm_head(args, engine, data):
    """Return the pretrained network of timm with a new head."""
    checks.check_timm_flags(args)
    require_engine_of_timm(engine, args.pretrained_model)
    network = timm_pretrained.load_pretrained(
        args.pretrained_model, engine.timm_config, args.architecture, args.pretrained_epoch
    )
    if args.from_scratch:
        logging.info("--from-scratch: the weights of %s are not used", args.pretrained_model)
        network = network.without_weights()
    network = with_drop_rates(network, args)
    return network.with_new_head(data.num_classes).for_images(data.train.image_shape)


def with_drop_rates(network, args):
    """Return the network of timm with this run's rates, not those that it was trained with."""
    rates = {"drop_rate": args.dropout, "drop_path_rate": args.drop_path}
    known = {name: rate for name, rate in rates.items() if rate or name in network.arguments}
    return network.with_arguments(**known)


def parse_args():
    parser = Parser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    group = parser.add_argument_group("Network")
    group.add_argument(
        "--pretrained-model",
        default="model/resnet-152",
        help="prefix of local files, a name of the catalogue (python -m common.modelzoo list),"
        " timm:NAME of a network of timm, or a PyTorch or ONNX file of any name",
    )
    group.add_argument(
        "--architecture",
        metavar="NAME",
        help="timm's name of the network in a PyTorch file, e.g. convnext_base (--engine torch)",
    )
    group.add_argument(
        "--variant",
        choices=torch_networks.LITE0_VARIANTS,
        help="which EfficientNet-Lite0 a PyTorch file holds (default: by its name's beginning)",
    )
    group.add_argument(
        "--pretrained-epoch",
        type=whole,
        help="epoch of the .params file to load, where the prefix has several",
    )
    group.add_argument(
        "--layer-before-fullc",
        metavar="NAME",
        help="layer that the new head follows (default: the one before the last FullyConnected)",
    )
    group.add_argument(
        "--head-lr-mult",
        type=number,
        default=1.0,
        help="factor of the learning rate for the new head, e.g. 10",
    )
    group.add_argument(
        "--freeze",
        metavar="PATTERN",
        help="regular expression of the parameters that are not trained, e.g. 'conv0|stage[12]'",
    )
    group.add_argument(
        "--dropout",
        type=number,
        default=0.0,
        help="share of features dropped before the head, 0 to below 1",
    )
    group.add_argument(
        "--drop-path",
        type=number,
        default=0.0,
        help="share of images for which a block is skipped, 0 to below 1 (networks of timm)",
    )
    group.add_argument(
        "--from-scratch", action="store_true", help="use random weights, not the pretrained ones"
    )
    flags.add_fit_args(parser)
    add_data_args(parser)
    add_data_aug_args(parser)
    args = recipes.parse_args(parser)
    for flag, share in (("--dropout", args.dropout), ("--drop-path", args.drop_path)):
        if not 0 <= share < 1:
            raise UserError(f"{flag} {share}: must be 0 to below 1")
    if not 0 <= args.head_lr_mult < math.inf:
        raise UserError(f"--head-lr-mult {args.head_lr_mult}: must be 0 or more")
    return args


if __name__ == "__main__":
    run_script(main)
