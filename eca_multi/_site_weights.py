"""The kernels of a network with inserted ECA, from one framework into another: canonical weights by the sites' paths.

`eca_state` of each framework names a kernel by its site's path and an ending of the framework's own. Canonically the
path alone is the name; where two networks have other paths, a map of names says which kernel goes where.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from ._canonical import CANONICAL_NAME, Weights, check_weights, native_kernel, pack, unpack

# What follows the site's path in the name of a kernel: behind a module, and in the place of an SE block.
_ENDINGS = {
    "torch": (".eca.conv.weight", ".conv.weight"),
    "keras": ("_eca/kernel", "/kernel"),
    "linen": ("/eca/kernel", "/kernel"),
    "nnx": (".eca.kernel", ".kernel"),
}
T = TypeVar("T")


def by_site(framework: str, kernels: Mapping[str, T]) -> dict[str, T]:
    """Return the kernels by their sites' paths; none if a name or a shape is no kernel's, as in a state of other kind.

    A kernel in an SE block's place has a name that a convolution's may be, so there the shape decides.
    """
    found = {_site(framework, name): kernel for name, kernel in kernels.items()}
    if "" in found:
        return {}
    behind = any(name.endswith(_ENDINGS[framework][0]) for name in kernels)
    fits = behind or all(native_kernel(framework, getattr(one, "shape", ()))[0] for one in kernels.values())
    return found if fits else {}


def sites_to_canonical(framework: str, kernels: Mapping[str, np.ndarray]) -> Weights:
    return {path: pack(framework, kernel)[CANONICAL_NAME] for path, kernel in kernels.items()}


def sites_from_canonical(
    framework: str,
    kernels: Mapping[str, tuple[Sequence[int], str]],
    weights: Mapping[str, np.ndarray],
    names: Mapping[str, str] | None,
) -> dict[str, np.ndarray]:
    """Return new kernels in the framework's layout.

    Args:
        kernels: The shape and dtype of each kernel, by its site's path.
        weights: Canonical, by the paths of the network that the weights come from.
        names: The path in `weights` by the site's path; None for equal paths, where "." and "/" count as one.

    Raises:
        TypeError, ValueError: If the weights or the names do not fit.
    """
    if names is None:
        plain = {path.replace("/", "."): path for path in weights} if isinstance(weights, Mapping) else {}
        names = {path: plain.get(path.replace("/", "."), path) for path in kernels}
    if not isinstance(names, Mapping) or set(names) != set(kernels):
        received = sorted(map(str, names)) if isinstance(names, Mapping) else type(names).__name__
        raise (ValueError if isinstance(names, Mapping) else TypeError)(
            f"names must map each of the network's sites to a name in weights. Received: {received}, for the sites "
            f"{sorted(kernels)}. From two plans: dict(zip(plan.paths, other_plan.paths))."
        )
    check_weights(weights, {names[path]: _canonical_shape(framework, shape) for path, (shape, _) in kernels.items()})
    return {
        path: unpack(framework, {CANONICAL_NAME: weights[names[path]]}, shape, dtype)
        for path, (shape, dtype) in kernels.items()
    }


def _canonical_shape(framework: str, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(pack(framework, np.zeros(shape, np.float32))[CANONICAL_NAME].shape)


def _site(framework: str, name: str) -> str:
    ending = next((one for one in _ENDINGS[framework] if name.endswith(one)), None)
    return "" if ending is None else name.removesuffix(ending)
