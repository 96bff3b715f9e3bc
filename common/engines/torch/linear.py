"""Linear layers of timm's networks on CPUs, computed by oneDNN.

PyTorch multiplies float32 matrices with MKL, which is slower than oneDNN on AMD's processors
(`benchmarks/engines.py` and `inference_peers.py`, ConvNeXt-T); bfloat16 is oneDNN's anyway. In
prediction oneDNN also computes the GELU behind a layer, while the numbers are in the cache.
"""

from common.engines.torch.runtime import torch


class OneDnnLinear(torch.nn.Module):
    """Computes what a `torch.nn.Linear` does, with its parameters, by a convolution of 1x1.

    That is oneDNN's, and PyTorch knows its gradient and can compile it.
    """

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x):
        """Return (…, out_features) of (…, in_features)."""
        if x.dim() not in (3, 4):
            return torch.nn.functional.linear(x, self.weight, self.bias)
        pixels = x if x.dim() == 4 else x.unsqueeze(1)
        weight = self.weight[:, :, None, None]
        y = torch.nn.functional.conv2d(pixels.permute(0, 3, 1, 2), weight, self.bias)
        y = y.permute(0, 2, 3, 1)
        return y if x.dim() == 4 else y.squeeze(1)


class JoinedLinear(OneDnnLinear):
    """Also computes the GELU behind it; has no gradient.

    Inductor takes it only where weights are constants of the code.

    Args:
        gelu: its form, as PyTorch's `approximate`: `"none"` or `"tanh"`; None: there is no GELU.
    """

    def __init__(self, linear, gelu=None):
        super().__init__(linear)
        self._activation = activation_of(gelu)

    def forward(self, x):
        """Return (…, out_features) of (…, in_features)."""
        x = x.to(self.weight.dtype)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self._activation)


class PackedLinear(JoinedLinear):
    """Has its weights in memory as oneDNN wants them for inputs of the first one's size.

    Without it, oneDNN arranges them anew for every batch. Inductor does the same by itself.
    """

    _is_packed = False

    def forward(self, x):
        """Return (…, out_features) of (…, in_features)."""
        if not self._is_packed:
            weight, rows = self.weight.detach(), x.numel() // self.in_features
            del self.weight
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            self._is_packed = True
        return super().forward(x)


def activation_of(gelu):
    """Return what oneDNN calls a GELU of a form of `JoinedLinear`: name, numbers, algorithm."""
    return ("none", [], "none") if gelu is None else ("gelu", [], gelu)


def replace_linear(model, kind):
    """Put a layer of `kind`, a class of this module, in the place of every linear layer."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is torch.nn.Linear:
                setattr(parent, name, kind(layer))
