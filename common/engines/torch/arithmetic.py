"""Arithmetic, reductions and shapes as MXNet means them: functions made from attributes."""

import math

from common.engines.torch.runtime import torch

F = torch.nn.functional


def _as_numbers(compare):
    """MXNet's comparisons give numbers of the type that they are given."""
    return lambda a, b: compare(a, b).to(a.dtype)


def _plain(function):
    """An operator without attributes."""
    return lambda attrs: function


def _with_scalar(function, swapped=False):
    """An operator of a tensor and a number."""

    def make(attrs):
        scalar = attrs.number("scalar", 0.0)
        if swapped:
            return lambda x: function(torch.full_like(x, scalar), x)
        return lambda x: function(x, scalar)

    return make


def _maximum(a, b):
    return torch.maximum(a, b) if torch.is_tensor(b) else a.clamp(min=b)


def _minimum(a, b):
    return torch.minimum(a, b) if torch.is_tensor(b) else a.clamp(max=b)


def _hypot(a, b):
    return torch.hypot(a, b if torch.is_tensor(b) else torch.full_like(a, b))


_BINARY = {
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "add": torch.add,
    "mod": torch.remainder,
    "power": torch.pow,
    "maximum": _maximum,
    "minimum": _minimum,
    "hypot": _hypot,
    "equal": _as_numbers(torch.eq),
    "not_equal": _as_numbers(torch.ne),
    "greater": _as_numbers(torch.gt),
    "greater_equal": _as_numbers(torch.ge),
    "lesser": _as_numbers(torch.lt),
    "lesser_equal": _as_numbers(torch.le),
}
_SCALAR_NAMES = {"add": "plus", "sub": "minus"}

_UNARY = {
    "BlockGrad": torch.Tensor.detach,
    "MakeLoss": lambda x: x,
    "_copy": lambda x: x,
    "abs": torch.abs,
    "arccos": torch.acos,
    "arcsin": torch.asin,
    "arctan": torch.atan,
    "cbrt": lambda x: x.sign() * x.abs().pow(1 / 3),
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "fix": torch.trunc,
    "floor": torch.floor,
    "log": torch.log,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "negative": torch.neg,
    "ones_like": torch.ones_like,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "rsqrt": torch.rsqrt,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "trunc": torch.trunc,
    "zeros_like": torch.zeros_like,
}


def _clip(attrs):
    low, high = attrs.number("a_min"), attrs.number("a_max")
    return lambda x: x.clamp(low, high)


def _hard_sigmoid(attrs):
    alpha, beta = attrs.number("alpha", 0.2), attrs.number("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _add_n(attrs):
    def compute(first, *rest):
        for tensor in rest:
            first = first + tensor
        return first

    return compute


def _div_sqrt_dim(x):
    return x / math.sqrt(x.shape[-1])


def _batch_dot(attrs):
    transposes = attrs.flag("transpose_a"), attrs.flag("transpose_b")

    def compute(a, b):
        a, b = (x.transpose(-1, -2) if t else x for x, t in zip((a, b), transposes))
        return torch.matmul(a, b)

    return compute


def _cast(attrs):
    dtype = getattr(torch, attrs.text("dtype"))
    if dtype.is_floating_point:  # of real numbers autocast chooses the type, by --dtype
        return lambda x: x if x.is_floating_point() else x.float()
    return lambda x: x.to(torch.int64).to(dtype)  # which wraps; from a float it may not


# --- Reductions ----------------------------------------------------------------------------------


def _reduce(function):
    """Over the axes that are named, or (`exclude`) over all others; over all without any."""

    def make(attrs):
        named, keep = attrs.integers("axis"), attrs.flag("keepdims")
        exclude = attrs.flag("exclude")

        def compute(x):
            axes = {axis % x.ndim for axis in named} or set(range(x.ndim))
            if exclude and named:
                axes = set(range(x.ndim)) - axes
            result = function(x, sorted(axes), keep)
            return result if result.ndim else result.reshape(1)

        return compute

    return make


def _product(x, axes, keep):
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep)
    return x


def _norm(attrs):
    order = attrs.integer("ord", 2)
    return _reduce(
        lambda x, axes, keep: (
            x.abs().sum(axes, keep) if order == 1 else x.square().sum(axes, keep).sqrt()
        )
    )(attrs)


# --- Shapes --------------------------------------------------------------------------------------


def _concat(attrs):
    axis = attrs.integer("dim", 1)
    return lambda *tensors: torch.cat(tensors, axis)


def _slice_channel(attrs):
    count, axis = attrs.integer("num_outputs"), attrs.integer("axis", 1)
    squeeze = attrs.flag("squeeze_axis")

    def compute(x):
        parts = x.tensor_split(count, axis)
        return [part.squeeze(axis) for part in parts] if squeeze else parts

    return compute


def _pad(attrs):
    mode = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}[
        attrs.require("mode", "constant", "edge", "reflect")
    ]
    value, widths = attrs.number("constant_value", 0.0), attrs.integers("pad_width")
    pairs = [widths[i : i + 2] for i in range(0, len(widths), 2)]
    flat = [width for pair in reversed(pairs) for width in pair]

    def compute(x):
        if mode == "constant":
            return F.pad(x, flat, value=value)
        return F.pad(x, flat[: 2 * (x.ndim - 2)], mode)  # the first two axes are never padded

    return compute


def _reshape(attrs):
    codes, reverse = attrs.integers("shape"), attrs.flag("reverse")
    codes = codes or attrs.integers("target_shape")

    def compute(x):
        shape = [*x.shape]
        if reverse:
            return x.reshape(_new_shape(shape[::-1], codes[::-1])[::-1])
        return x.reshape(_new_shape(shape, codes))

    return compute


def _new_shape(shape, codes):
    """Return the shape that MXNet's codes mean: 0 copies a size, -2 all that are left, -3 joins
    two, -4 splits one into the two that follow, -1 is what remains."""
    new, left, codes = [], [*shape], [*codes]
    while codes:
        code = codes.pop(0)
        if code == -2:
            new += left
            left = []
        elif code == -3:
            new.append(left.pop(0) * left.pop(0))
        elif code == -4:
            whole, first, second = left.pop(0), codes.pop(0), codes.pop(0)
            first = whole // second if first == -1 else first
            new += [first, whole // first]
        else:
            size = left.pop(0) if left else 1
            new.append(size if code == 0 else code)
    return new


def _transpose(attrs):
    axes = attrs.integers("axes")
    return lambda x: x.permute(axes or tuple(reversed(range(x.ndim))))


def _swap_axes(attrs):
    first, second = attrs.integer("dim1", 0), attrs.integer("dim2", 0)
    return lambda x: x.transpose(first, second)


def _expand_dims(attrs):
    axis = attrs.integer("axis")
    return lambda x: x.unsqueeze(axis)


def _squeeze(attrs):
    axes = attrs.integers("axis")

    def compute(x):
        named = axes or [i for i, size in enumerate(x.shape) if size == 1]
        y = x.squeeze(tuple(named)) if named else x
        return y if y.ndim else y.reshape(1)

    return compute


def _stack(attrs):
    axis = attrs.integer("axis", 0)
    return lambda *tensors: torch.stack(tensors, axis)


def _slice(attrs):
    begin, end, step = (attrs.integers(key) for key in ("begin", "end", "step"))

    def compute(x):
        for axis, (first, last) in enumerate(zip(begin, end)):
            stride = (step[axis] if axis < len(step) else None) or 1
            x = _slice_of(x, axis, first, last, stride)
        return x

    return compute


def _slice_of(x, axis, first, last, stride):
    if stride > 0:
        return x[(slice(None),) * axis + (slice(first, last, stride),)]
    indices = range(x.shape[axis])[first:last:stride]
    return x.index_select(axis, torch.tensor([*indices], device=x.device))


def _slice_axis(attrs):
    axis, begin, end = attrs.integer("axis"), attrs.integer("begin"), attrs.integer("end")

    def compute(x):
        return _slice_of(x, axis % x.ndim, begin, end, 1)

    return compute


def _slice_like(attrs):
    named = attrs.integers("axes")

    def compute(x, like):
        for axis in named or range(x.ndim):
            x = x.narrow(axis, 0, like.shape[axis])
        return x

    return compute


def _broadcast_axis(attrs):
    axes, sizes = attrs.integers("axis"), attrs.integers("size")

    def compute(x):
        shape = [*x.shape]
        for axis, size in zip(axes, sizes):
            shape[axis] = size
        return x.expand(shape)

    return compute


def _broadcast_to(attrs):
    sizes = attrs.integers("shape")
    return lambda x: x.expand([size or old for size, old in zip(sizes, x.shape)])


def _tile(attrs):
    counts = attrs.integers("reps")
    return lambda x: x.repeat((1,) * (x.ndim - len(counts)) + counts)


def _reverse(attrs):
    axes = attrs.integers("axis")
    return lambda x: x.flip(axes)


OPERATORS = {
    **{f"elemwise_{name}": _plain(_BINARY[name]) for name in ("add", "sub", "mul", "div")},
    **{f"broadcast_{name}": _plain(function) for name, function in _BINARY.items()},
    **{f"_{name}": _plain(function) for name, function in _BINARY.items()},
    **{
        f"_{_SCALAR_NAMES.get(name, name)}_scalar": _with_scalar(function)
        for name, function in _BINARY.items()
    },
    **{
        f"_r{_SCALAR_NAMES.get(name, name)}_scalar": _with_scalar(_BINARY[name], swapped=True)
        for name in ("sub", "div", "mod", "power")
    },
    **{name: _plain(function) for name, function in _UNARY.items()},
    "Cast": _cast,
    "Concat": _concat,
    "Flatten": _plain(lambda x: x.flatten(1)),
    "Pad": _pad,
    "Reshape": _reshape,
    "SliceChannel": _slice_channel,
    "SwapAxis": _swap_axes,
    "_contrib_div_sqrt_dim": _plain(_div_sqrt_dim),
    "_grad_add": _plain(torch.add),
    "add_n": _add_n,
    "amp_cast": _cast,
    "batch_dot": _batch_dot,
    "broadcast_axis": _broadcast_axis,
    "broadcast_like": _plain(lambda x, like: x.expand_as(like)),
    "broadcast_to": _broadcast_to,
    "clip": _clip,
    "expand_dims": _expand_dims,
    "hard_sigmoid": _hard_sigmoid,
    "make_loss": _plain(lambda x: x),
    "max": _reduce(torch.amax),
    "mean": _reduce(torch.mean),
    "min": _reduce(torch.amin),
    "norm": _norm,
    "prod": _reduce(_product),
    "reshape_like": _plain(lambda x, like: x.reshape(like.shape)),
    "reverse": _reverse,
    "slice": _slice,
    "slice_axis": _slice_axis,
    "slice_like": _slice_like,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _plain(torch.Tensor.detach),
    "sum": _reduce(torch.sum),
    "tile": _tile,
    "transpose": _transpose,
}
