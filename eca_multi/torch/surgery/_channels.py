"""How many channels a module returns, and on which axis."""

from torch import nn

from ._modules import CONVS, NORMS, is_channels_last_norm

KEEPING = {f"torch.nn.modules.{name}" for name in ("activation", "dropout", "padding", "pooling", "upsampling")}
NAMES = ("out_channels", "num_features", "num_channels", "out_features")


def channels_of(module: nn.Module) -> int | None:
    """What a module says itself; None where it does not, or not yet (a lazy one)."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    if isinstance(module, (*CONVS, *NORMS, nn.Linear)):
        return next((getattr(module, name) for name in NAMES if getattr(module, name, 0)), None)
    return None


def keeps_channels(module: nn.Module) -> bool:
    """Whether a module of torch's own returns as many channels as it takes: activations, pools, dropouts and such."""
    kind = type(module)
    return kind.__module__ in KEEPING and kind.__name__ not in ("GLU", "MultiheadAttention")


def layout_of(module: nn.Module, channels: int | None, shape: tuple[int, ...] | None) -> str:
    """From the run where it decides, from the module's class otherwise."""
    last = is_channels_last_norm(module) or isinstance(module, nn.Linear)
    if shape is not None and channels is not None and (shape[1] == channels) != (shape[-1] == channels):
        last = shape[-1] == channels
    return "channels_last" if last else "channels_first"


def rank_reason(module: nn.Module, shape: tuple[int, ...] | None, layout: str) -> str:
    """Why a tensor has no channels to gate; "" where it has."""
    rank = len(shape) if shape is not None else 2 if isinstance(module, nn.Linear) else None
    if rank is not None and rank < 3:
        return f"its output has rank {rank}: ECA averages over positions, of which there are none"
    if rank == 3 and layout == "channels_last":
        return "its output is (N, tokens, C): a sequence of tokens, not a feature map"
    return ""
