"""The operators of image networks: a symbol file may hold no others.

MXNet knows about a thousand. Some run Python code (`Custom`), take addresses in memory from the
file (`_Native`, `_NDArray`) or read any file (`_cvimread`). Most of the rest have no place in an
image classifier. Where a network needs another harmless one, add its name here.
"""

_LAYERS = """
    Activation BatchNorm Concat Convolution Deconvolution Dropout Flatten FullyConnected LRN
    LeakyReLU Pad Pooling UpSampling GroupNorm InstanceNorm L2Normalization LayerNorm
    SpatialTransformer GridGenerator BilinearSampler
    _contrib_AdaptiveAvgPooling2D _contrib_BatchNormWithReLU _contrib_BilinearResize2D
    _contrib_DeformableConvolution _contrib_ModulatedDeformableConvolution _contrib_SyncBatchNorm
    _image_crop _image_normalize _image_resize _image_to_tensor
"""

_OUTPUTS = """
    SoftmaxOutput SoftmaxActivation softmax log_softmax softmin softmax_cross_entropy SVMOutput
    LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput MakeLoss make_loss
    BlockGrad stop_gradient smooth_l1 pick one_hot topk argmax argmin argmax_channel
"""

# Squeeze-and-excitation, hard swish, attention and bilinear pooling are written with these.
_ARITHMETIC = """
    add_n elemwise_add elemwise_sub elemwise_mul elemwise_div _grad_add
    _add _sub _mul _div _plus _minus _mod _power _maximum _minimum _hypot
    _plus_scalar _minus_scalar _rminus_scalar _mul_scalar _div_scalar _rdiv_scalar _mod_scalar
    _rmod_scalar _power_scalar _rpower_scalar _maximum_scalar _minimum_scalar _hypot_scalar
    _equal _not_equal _greater _greater_equal _lesser _lesser_equal
    _equal_scalar _not_equal_scalar _greater_scalar _greater_equal_scalar _lesser_scalar
    _lesser_equal_scalar _logical_and _logical_or _logical_xor logical_not where
    broadcast_add broadcast_sub broadcast_mul broadcast_div broadcast_mod broadcast_power
    broadcast_plus broadcast_minus broadcast_maximum broadcast_minimum broadcast_hypot
    broadcast_equal broadcast_not_equal broadcast_greater broadcast_greater_equal broadcast_lesser
    broadcast_lesser_equal broadcast_logical_and broadcast_logical_or broadcast_logical_xor
    abs sign negative reciprocal round rint ceil floor trunc fix square sqrt rsqrt cbrt rcbrt
    exp expm1 log log10 log1p log2 sin cos tan arcsin arccos arctan sinh cosh tanh
    arcsinh arccosh arctanh erf gamma gammaln clip relu sigmoid hard_sigmoid softsign
    sum sum_axis mean max max_axis min min_axis prod nansum nanprod norm moments
    dot batch_dot linalg_gemm linalg_gemm2 _linalg_gemm _linalg_gemm2
    _contrib_div_sqrt_dim _contrib_interleaved_matmul_selfatt_qk
    _contrib_interleaved_matmul_selfatt_valatt
"""

_SHAPES = """
    Cast cast Reshape reshape reshape_like flatten concat SliceChannel split _split_v2 SwapAxis
    swapaxes transpose expand_dims squeeze stack slice slice_axis slice_like Crop crop pad tile
    repeat reverse flip take gather_nd diag broadcast_axis broadcast_axes broadcast_like
    broadcast_to depth_to_space space_to_depth shape_array size_array zeros_like ones_like _zeros
    _zeros_without_dtype _ones _full _arange _contrib_arange_like _linspace _eye _copy identity
    _identity_with_attr_like_rhs _random_uniform random_uniform
"""

# Mixed precision, and what MXNet's quantization inserts into a network.
_PRECISIONS = """
    amp_cast amp_multicast
    _contrib_quantize _contrib_quantize_v2 _contrib_requantize _contrib_dequantize
    _contrib_quantized_act _contrib_quantized_batch_norm _contrib_quantized_concat
    _contrib_quantized_conv _contrib_quantized_elemwise_add _contrib_quantized_elemwise_mul
    _contrib_quantized_flatten _contrib_quantized_fully_connected _contrib_quantized_pooling
    _sg_mkldnn_conv _sg_mkldnn_fully_connected _sg_mkldnn_selfatt_qk _sg_mkldnn_selfatt_valatt
"""

# Their names in the files of MXNet's first years.
_OLD_NAMES = """
    Softmax ElementWiseSum BatchNorm_v1 Convolution_v1 Pooling_v1
    _Plus _Minus _Mul _Div _Mod _Power _Maximum _Minimum _Hypot
    _PlusScalar _MinusScalar _RMinusScalar _MulScalar _DivScalar _RDivScalar _ModScalar _RModScalar
    _PowerScalar _RPowerScalar _MaximumScalar _MinimumScalar _HypotScalar
    _Equal _Not_Equal _Greater _Greater_Equal _Lesser _Lesser_Equal _EqualScalar _NotEqualScalar
    _GreaterScalar _GreaterEqualScalar _LesserScalar _LesserEqualScalar
"""

OF_IMAGE_NETWORKS = frozenset(
    " ".join((_LAYERS, _OUTPUTS, _ARITHMETIC, _SHAPES, _PRECISIONS, _OLD_NAMES)).split()
)
