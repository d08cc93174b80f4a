"""What each operation does to the positions along an axis: one rule for each class of Keras.

What has no rule may mix all positions, so that nothing is claimed of a network that holds it on the way.
"""

from collections.abc import Callable, Sequence

from eca_multi.keras.surgery._find.kinds import is_eca

from . import axes, windows
from .flow import MIXED, Flow, joined
from .inputs import attended, concatenated, elementwise
from .step import Step, known_as

# Position t of the output is made of position t of the inputs, all along their axes.
ELEMENTWISE = {
    *("Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Dropout", "SpatialDropout1D", "SpatialDropout2D"),
    *("SpatialDropout3D", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Identity", "Rescaling", "Normalization"),
    *("BatchNormalization", "ActivityRegularization", "Masking", "StochasticDepth", "Add", "Subtract", "Multiply"),
    *("Average", "Maximum", "Minimum", "Divide", "TrueDivide", "DivideNoNan", "Power", "Absolute", "Abs", "Negative"),
    *("Square", "Sqrt", "Rsqrt", "Reciprocal", "Exp", "Expm1", "Log", "Log1p", "Sin", "Cos", "Tanh", "Sigmoid", "Relu"),
    *("Relu6", "Softplus", "Softsign", "Silu", "LogSigmoid", "LeakyRelu", "HardSigmoid", "HardSilu", "Elu", "Selu"),
    *("Gelu", "Celu", "HardTanh", "Clip", "Cast", "SaturateCast", "StopGradient", "Where", "Sign", "Erf", "Floor"),
    *("Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "LogicalAnd", "LogicalOr", "LogicalNot"),
    *("NanToNum", "Copy", "ConvertToTensor"),
}
CONSTANT = {"ZerosLike", "OnesLike", "FullLike", "EmptyLike"}
NORMS_OVER_AXES = {"LayerNormalization", "RMSNormalization", "UnitNormalization", "Softmax", "LogSoftmax", "Normalize"}
REDUCTIONS = {"Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Var", "Std", "Any", "All"}
ATTENTIONS = {"MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention"}
RANKS = (1, 2, 3)
# Rules for operations of one input: the flow of the first output.
RULES: dict[str, Callable[[Step, Flow], Flow]] = {
    **dict.fromkeys(
        (f"{kind}Conv{rank}D" for kind in ("", "Depthwise", "Separable") for rank in RANKS), windows.convolved
    ),
    **dict.fromkeys((f"Conv{rank}DTranspose" for rank in RANKS), windows.transposed),
    **dict.fromkeys((f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in RANKS), windows.pooled),
    **dict.fromkeys(
        (f"Global{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in RANKS), windows.pooled_globally
    ),
    **dict.fromkeys((f"UpSampling{rank}D" for rank in RANKS), windows.upsampled),
    **dict.fromkeys((f"ZeroPadding{rank}D" for rank in RANKS), windows.padded),
    **dict.fromkeys((f"Cropping{rank}D" for rank in RANKS), windows.cropped),
    **dict.fromkeys(
        ("RNN", "LSTM", "GRU", "SimpleRNN", *(f"ConvLSTM{rank}D" for rank in RANKS)), windows.run_over_time
    ),
    "Pad": windows.padded_by_op,
    "Cumsum": windows.summed_so_far,
    **dict.fromkeys(NORMS_OVER_AXES, axes.over_axes),
    **dict.fromkeys(REDUCTIONS, axes.reduced),
    "Dense": axes.dense,
    "EinsumDense": axes.einsum_dense,
    "Embedding": lambda _, flow: flow,
    "Reshape": axes.reshaped,
    "Flatten": axes.reshaped,
    "Permute": axes.permuted,
    "Transpose": axes.permuted,
    "Swapaxes": axes.swapped,
    "ExpandDims": axes.expanded,
    "Squeeze": axes.squeezed,
    "GetItem": axes.sliced,
    "Split": axes.split,
    "Matmul": axes.multiplied,
    "RepeatVector": axes.repeated,
}


def flow_through(step: Step, flows: Sequence[Flow | None]) -> list[Flow | None]:
    """Return the flow of each output of a call, from those of its inputs."""
    found = [flow for flow in flows if flow is not None]
    name = known_as(step.operation)
    if not found or name in CONSTANT:
        return [None] * len(step.outputs)
    if any(flow.axis is None for flow in found):
        return [MIXED] * len(step.outputs)
    if all(flow.axis == 0 for flow in found):  # a layer leaves one sample alone
        return [joined(flows)] * len(step.outputs)
    if name in ELEMENTWISE:
        return [elementwise(step, flows)] * len(step.outputs)
    if name in ("Concatenate", "Stack"):
        return [concatenated(step, flows) if name == "Concatenate" else MIXED]
    if name in ATTENTIONS:
        return [attended(step, flows)] * len(step.outputs)
    rule = windows.gated if is_eca(step.operation) else RULES.get(name)
    if rule is None or flows[0] is None or any(flow is not None for flow in flows[1:]):
        return [MIXED] * len(step.outputs)
    first = rule(step, flows[0])
    many = len(step.outputs) > 1 and name != "Split"  # the states of an RNN, the moments of a tensor, ...
    return [first, *[MIXED if many else first] * (len(step.outputs) - 1)]
