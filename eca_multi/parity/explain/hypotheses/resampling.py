"""Faults in resizing and pooling: align_corners, antialias, the rule of nearest, count_include_pad, ceil_mode."""

from typing import Any

import torch.nn.functional as F

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, on, setting

_MODES = {
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
    "_upsample_bilinear2d_aa": "bilinear",
    "_upsample_bicubic2d_aa": "bicubic",
}
_SMOOTH = {name: mode for name, mode in _MODES.items() if mode in ("bilinear", "bicubic")}
_NEAREST = tuple(f"{name}{rank}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for rank in (1, 2, 3))
_POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")


def _aligned(call: Call) -> Any:
    return call.func(*call.args[:2], not call.args[2], *call.args[3:], **call.kwargs)


def _antialiased(call: Call) -> Any:
    size = call.plain().shape[2:]
    is_smoothed = call.name.endswith("_aa")
    return F.interpolate(
        call.x, size=size, mode=_SMOOTH[call.name], align_corners=bool(call.args[2]), antialias=not is_smoothed
    )


def _resized(mode: str) -> Change:
    def change(call: Call) -> Any:
        size = call.plain().shape[2:]
        now = _MODES.get(call.name, "nearest-exact" if "exact" in call.name else "nearest")
        if mode == now or len(size) != 2:
            return NotImplemented
        return F.interpolate(call.x, size=size, mode=mode, align_corners=None if "nearest" in mode else False)

    return change


def _given_scale_ignored(call: Call) -> Any:
    """Take the ratio of the sizes where a factor was given, which differs for a size that is rounded."""
    size = call.plain().shape[2:]
    return F.interpolate(call.x, size=size, mode=_MODES[call.name], align_corners=bool(call.args[2]))


def _counted(call: Call) -> Any:
    """Exchange counting and not counting the padding in an average."""
    place, padding = 5, call.argument(3, "padding", 0)
    if padding in (0, (0, 0), [0, 0], (0,), [0]):
        return NotImplemented
    return setting(place, "count_include_pad", not call.argument(place, "count_include_pad", True))(call)


def _rounded_up(call: Call) -> Any:
    place = 5 if call.name.startswith("max") else 4
    return setting(place, "ceil_mode", not call.argument(place, "ceil_mode", False))(call)


def _other_pool(call: Call) -> Any:
    kernel, stride, padding = (
        call.argument(1, "kernel_size"),
        call.argument(2, "stride"),
        call.argument(3, "padding", 0),
    )
    name = call.name.replace("max", "avg") if call.name.startswith("max") else call.name.replace("avg", "max")
    return getattr(F, name)(call.x, kernel, stride or None, padding)


def _maximum(call: Call) -> Any:
    if call.name != "mean":
        return F.adaptive_max_pool2d(call.x, call.argument(1, "output_size"))
    axes = call.argument(1, "dim", call.kwargs.get("axis"))
    return NotImplemented if axes is None else call.x.amax(axes, keepdim=call.argument(2, "keepdim", False))


def _blocks_last(call: Call) -> Any:
    """Read the channels as (r r C), as TensorFlow's depth_to_space does."""
    factor = call.argument(1, "upscale_factor")
    mixed = call.x.unflatten(1, (factor * factor, -1)).transpose(1, 2).flatten(1, 2)
    return call.on(mixed)


RESAMPLING = (
    Hypothesis("align_corners is the other one", on(("upsample_linear1d", "upsample_trilinear3d", *_SMOOTH), _aligned)),
    Hypothesis("antialias is the other one", on(tuple(_SMOOTH), _antialiased)),
    *(
        Hypothesis(f"the resize is {mode}", on((*_NEAREST, *_MODES), _resized(mode)))
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")
    ),
    Hypothesis("the scale factor is the ratio of the sizes", on(tuple(_MODES), _given_scale_ignored)),
    Hypothesis("count_include_pad is the other one", on(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _counted)),
    Hypothesis("ceil_mode is the other one", on(_POOLS, _rounded_up)),
    Hypothesis("the pool is the other one of maximum and average", on(_POOLS, _other_pool)),
    Hypothesis("the maximum is taken instead of the mean", on(("mean", "adaptive_avg_pool2d"), _maximum)),
    Hypothesis("the channels of the pixel shuffle are (r r C)", {"pixel_shuffle": _blocks_last}),
)
