"""Engines: what computes a network, behind one interface: MXNet or PyTorch.

An engine is a package of this folder with the functions and classes below. `load` imports it when
a step needs it (`choice` says which); `import common.engines` does not. Nothing outside of the
package imports its framework, and it knows nothing of flags, records or checkpoints.

    NAME                                     for people: "MXNet"
    QUANTIZED                                what its files of 8-bit networks are called: "int8"
    SYMBOL_VERSION                           the MXNet that checkpoints are written for: 10901
    describe() -> {str: str}                 what it is and what it can do on this machine
    parse_devices(text, flag) -> list        of `"0,1"`, `"cpu"`, `"cpu:0,cpu:1"`
    check(dtype, devices, compiled=False, tf32=False)    UserError: these devices do not do it
    memory_in_use(devices) -> str            for people
    versions() -> {str: str}                 of what it computes with
    infer_shapes(graph, image_shape)         {name: shape} of every parameter and statistic
    layer_shapes(graph, image_shape)         {layer: shape of its output}, for one image
    optimizers() -> {name: settings}         and why one cannot be set: {"momentum": ""}
    launch(devices) -> status                trains in a process for each device; None: in this one
    Workers(kind, devices)                   who trains together, and what shares gradients
    Trainer(network, devices, options, workers)
    Predictor(networks, weights, devices, batch_size, image_shape, dtype, compiled=False)
    allocate(shape, dtype) -> array          memory that the engine reads without a copy
    quantize(network, images) -> Network     for dtype int8, calibrated on uint8 images
    timm_config(name) -> dict                what timm knows of a network; PyTorch only
    export_onnx(path, network, image_shape)  a network of timm as ONNX; PyTorch only

A `Network` is plain data (`common.networks`), and so is a `TimmNetwork`, which only PyTorch
computes; batches are `common.data.loader.Batch`es, labels and probabilities numpy arrays: files
never depend on the engine that wrote them.

    Workers:    rank   size   machine   num_machines   share   is_async   is_joint
                agree(value) -> the first worker's   sum(numbers) -> of all workers, where is_joint
                close()
    Trainer:    begin_epoch(epoch)           seeds what is random, by the run's seed and the epoch
                step(batch, learning_rate) -> () -> (N, classes): to be read when wanted;
                    learning_rate None: the gradients wait for the update of a later batch
                evaluate(batch) -> (N, classes)
                synchronize()                waits until everything queued is computed
                state() -> TrainerState   restore_optimizer(arrays)   restore_average(arrays)
                checkpoint_bytes() -> (parameters, optimizer, average)      num_parameters
    Predictor:  num_classes   predict(batches) -> (batch, (N - pad, classes)) in order
"""

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Sequence

from common.base.files import UserError

ENGINES = ("mxnet", "torch")  # in the order of preference


def add_engine_arg(parser):
    """Add the flags that choose the engine and how it works."""
    parser.add_argument(
        "--engine",
        choices=["auto", *ENGINES],
        default="auto",
        help="what computes the network: MXNet or PyTorch; auto: the one that is installed, and of"
        " both the one that suits the devices and is faster there (default: auto)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="translate the network to code of its own first, which takes minutes; PyTorch only",
    )
    parser.add_argument(
        "--tf32",
        action="store_true",
        help="multiply float32 numbers with 10 bits of their fractions: faster on NVIDIA's GPUs"
        " since Ampere; PyTorch only",
    )


def load(name="auto"):
    """Return the engine of that name.

    Raises:
        UserError: its framework is not installed, or does not start on this machine.
    """
    if name == "auto":
        name = next(iter(installed()), ENGINES[0])
    return importlib.import_module(f"common.engines.{name}")


def require_engine_of_timm(engine, name):
    """Raise `UserError` unless an engine computes networks of timm; `name` is such a network's."""
    if not hasattr(engine, "timm_config"):
        raise UserError(f"{name}: this network of timm needs --engine torch")


def installed():
    """Return the names of the engines whose frameworks are installed."""
    return [name for name in ENGINES if importlib.util.find_spec(name)]


@dataclass
class TrainerOptions:
    """How a network is trained.

    Attributes:
        batch_size: images in a batch of all devices together.
        image_shape: `(3, H, W)`.
        schedule: `common.training.schedule.Schedule`. The trainer is given the rate of each step;
            it takes the rate before the first one from here, and servers that make the updates by
            themselves (`Workers.is_async`) take all rates from here.
        dtype: what the network computes in: float32, float16 or bfloat16.
        compiled: whether the network is compiled for these devices (PyTorch).
        optimizer: a name of `optimizers()`.
        optimizer_settings: all but the learning rate.
        updates_done: updates that were made before, where a run is resumed.
        correct_momentum: whether past gradients follow the learning rate (Goyal et al. 2017).
        frozen: names of parameters that are not trained.
        loss_scale: factor of the gradients in the backward pass (float16 underflows).
        learning_rate_factors: `{parameter: factor of the learning rate}`.
        compression: `{"type": "2bit", "threshold": 0.5}` for the gradients between devices.
        layer_decay: factor of the learning rate from each layer to the one before it (timm).
        average_decay: decay of a moving average of the weights; 0: no average.
        sync_batch_norm: whether BatchNorm normalises by the batch of all devices together.
        seed: of everything that is random.
        logit_adjustment: `(num_classes,)`, added to the logits in the loss alone; None: nothing.
        clip_norm: bound of the norm of all gradients together; 0: none.
        soft_classes: how many classes the soft labels of a batch have; 0: its labels are numbers.
    """

    batch_size: int
    image_shape: Sequence[int]
    schedule: Any
    dtype: str = "float32"
    compiled: bool = False
    optimizer: str = "sgd"
    optimizer_settings: Dict[str, float] = field(default_factory=dict)
    updates_done: int = 0
    correct_momentum: bool = True
    frozen: Sequence[str] = ()
    loss_scale: float = 1.0
    learning_rate_factors: Dict[str, float] = field(default_factory=dict)
    compression: Optional[Dict[str, Any]] = None
    layer_decay: float = 1.0
    average_decay: float = 0.0
    sync_batch_norm: bool = False
    seed: int = 0
    logit_adjustment: Optional[Any] = None
    clip_norm: float = 0.0
    soft_classes: int = 0


@dataclass
class TrainerState:
    """What a checkpoint keeps, as `{name: numpy array}` each.

    Attributes:
        params, stats: the network's.
        optimizer: `state:NAME/0` is the first array that the optimizer keeps for parameter NAME,
            `number:NAME` a number that changes from update to update. Empty where there is nothing
            to keep.
        slots: how many arrays the optimizer keeps for a parameter. One more than that is the
            parameter itself in float32, which float16 keeps.
        average: the moving average of the parameters; None without one.
    """

    params: Dict[str, Any]
    stats: Dict[str, Any]
    optimizer: Dict[str, Any]
    average: Optional[Dict[str, Any]] = None
    slots: int = 0
