"""TensorFlow's operations under rounding noise: those that copy or select, that round once or twice, and that sum."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import words

Attributes = Mapping[str, Any]

# Operations whose every result is an input, its negative, or a constant.
EXACT = words(
    """
    Abs ArgMax ArgMin Assert BatchToSpaceND Bitcast BroadcastGradientArgs BroadcastTo Cast Ceil ClipByValue ConcatV2
    Concat Const Copy DepthToSpace DiagPart DynamicPartition DynamicStitch EnsureShape ExpandDims
    ExtractImagePatches Fill Floor Gather GatherNd GatherV2 Identity IdentityN LinSpace MatrixDiagPartV3 MatrixDiagV3
    MatrixBandPart MatrixSetDiagV3 Max MaxPool MaxPool3D MaxPoolGradGrad MaxPoolGradGradWithArgmax MaxPoolGradV2
    MaxPoolV2 MaxPoolWithArgmax Maximum MirrorPad Min Minimum Neg OneHot OnesLike Pack Pad PadV2 PlaceholderWithDefault
    PreventGradient Range RealImag ReadVariableOp Real Imag Relu Relu6 Relu6Grad ReluGrad Reshape ResizeNearestNeighbor
    ResourceGather ReverseSequence ReverseV2 Rint Roll Round ScatterNdNonAliasingUpdate Select SelectV2 Shape Sign Slice
    Snapshot SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice StridedSliceGrad
    TensorScatterUpdate TensorScatterMax TensorScatterMin Tile TopKV2 Transpose Unpack Where ZerosLike
    """
)
# Elementwise operations that round once.
ARITHMETIC = words(
    """
    Add AddV2 BiasAdd BiasAddV1 Div DivNoNan FloorMod HardSwish Inv LeakyRelu LeakyReluGrad Mod Mul MulNoNan RealDiv
    Reciprocal Sqrt Square Sub
    """
)
# Elementwise operations that count as two roundings.
TRANSCENDENTAL = words(
    """
    Acos Acosh Asin Asinh Atan Atan2 Atanh BesselI0e BesselI1e Betainc Cos Cosh Digamma Elu EluGrad Erf Erfc Erfinv Exp
    Expm1 FloorDiv Igamma Igammac InvGrad Lgamma Log Log1p Ndtri Polygamma Pow ReciprocalGrad Rsqrt RsqrtGrad Selu
    SeluGrad Sigmoid SigmoidGrad Sin Sinh Softplus SoftplusGrad Softsign SoftsignGrad SqrtGrad SquaredDifference Tan
    Tanh TanhGrad Xdivy Xlog1py Xlogy Zeta
    """
)
# Operations linear in these of their floating-point inputs, or in all: an error has the size of the result on absolute
# values.
LINEAR: dict[str, tuple[int, ...] | None] = dict.fromkeys(
    words(
        """
        AddN AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAddGrad Conv2D
        Conv2DBackpropFilter Conv2DBackpropInput Conv3D Conv3DBackpropFilterV2 Conv3DBackpropInputV2 Cumprod Cumsum
        DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Einsum
        EuclideanNorm L2Loss MatMul Mean MirrorPadGrad Prod ResizeNearestNeighborGrad ScatterNd SegmentMean SegmentSum
        SparseSegmentSum Sum TensorScatterAdd TensorScatterSub UnsortedSegmentProd UnsortedSegmentSum
        """
    )
)
LINEAR |= dict.fromkeys(words("MaxPoolGrad MaxPool3DGrad MaxPoolGradWithArgmax"), (2,)) | {
    "MaxPoolGradWithArgmax": (1,)
}
LINEAR |= dict.fromkeys(words("ResizeBilinear ResizeBicubic ResizeBilinearGrad ResizeBicubicGrad ResizeArea"), (0,))
_WINDOWS = words("AvgPool AvgPool3D AvgPoolGrad AvgPool3DGrad")
_MEANS = words("Mean L2Loss EuclideanNorm SegmentMean")


def is_random(name: str) -> bool:
    """Return whether an operation draws random numbers."""
    return "Random" in name or name in ("Multinomial", "TruncatedNormal", "ParameterizedTruncatedNormal")


def roundings(name: str) -> float:
    """Return how many roundings an elementwise operation is charged; an unknown one is charged one."""
    return 2.0 if name in TRANSCENDENTAL else 1.0


def terms(name: str, attributes: Attributes, inputs: Sequence[Any], out: np.ndarray) -> float | None:
    """Return the number of terms of each sum, or None where the operation on ones counts them."""
    if name in _WINDOWS:
        return math.prod(attributes["ksize"])
    if name in _MEANS:
        return max(inputs[0].size / max(out.size, 1), 1.0)
    if name.startswith("Resize") and "Nearest" not in name:
        # The weights are rounded in float32, with the size of coordinates: sqrt(n) is the largest coordinate.
        return float(max(*inputs[0].shape[1:3], *out.shape[1:3])) ** 2
    return None
