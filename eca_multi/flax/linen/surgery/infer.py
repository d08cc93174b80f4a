"""Read a plan back: from a checkpoint of a linen network, or from a live network with ECA."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from flax import linen as nn
from flax.core import meta

from eca_multi import __version__
from eca_multi.flax._run import stacked_note
from eca_multi.surgery.errors import PlanMismatchError
from eca_multi.surgery.infer import Kernel, asked_axes, check_checkpoint, inferred_plan
from eca_multi.surgery.plan import ECAPlan

from ._find.call import call_with, initial_shapes
from ._find.check import check_module, check_type
from ._find.finder import Finder
from ._find.variables import Keys, check_variables, count, flat
from ._wrap import KERNEL, base_class, sites_of, with_sites


def infer_plan(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    gate: str = "2sigmoid",
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    example_inputs: Any = None,
    method: str = "__call__",
) -> ECAPlan:
    """Return the plan that a checkpoint was trained with, from the keys and shapes of its kernels.

    Args:
        module: The network without ECA.
        variables: Of the network with ECA; shapes will do.
        gate: That the network was trained with, which no key tells; with "2sigmoid" the plan's `init` is "identity".
        pool_axes, causal_axis: As in `plan_eca`; they are in no checkpoint either.
        example_inputs, method: As in `plan_eca`.

    Raises:
        NoSiteError: If the variables hold no ECA. PlanMismatchError: If they are not those of this module with ECA.
        TypeError, ValueError: If an argument is invalid. UnsupportedModelError: If the module is bound, or JAX is
            tracing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import infer_plan, insert_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> _, trained = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> infer_plan(net, trained, example_inputs=x).paths
        ('layers_1',)
    """
    check_module(module)
    check_checkpoint(variables, gate)
    check_variables(variables)
    call = call_with(module, example_inputs, method)
    base = with_sites(module, ())
    plain = initial_shapes(base, call)
    plain_keys, trained = set(flat(plain["params"])), flat(variables["params"])
    shapes = {
        keys[: -len(KERNEL)]: tuple(meta.unbox(leaf).shape)
        for keys, leaf in trained.items()
        if keys[-len(KERNEL) :] == KERNEL and keys not in plain_keys
    }
    rest = set(trained) - {(*site, *KERNEL) for site in shapes}
    replaced = {site for site in shapes if _below(site, plain_keys) and not _below(site, rest)}
    if shapes:
        _check_rest(plain_keys.difference(*(_below(site, plain_keys) for site in replaced)), rest)
    finder = Finder(base, plain, call)
    at_path = {c.path: c for c in finder.find("any")}
    at_path |= {c.path: c for c in finder.find("se") if tuple(c.path.split("/")) in replaced}
    return inferred_plan(
        "linen",
        base_class(module).__name__,
        {"/".join(site): Kernel(shape[-3], prod(shape), stacked_note(shape[:-3])) for site, shape in shapes.items()},
        at_path,
        gate=gate,
        key="<site>/eca/kernel",
        model_parameters=count(plain["params"]),
        axes=asked_axes("linen", pool_axes, causal_axis),
    )


def installed_eca(module: nn.Module) -> ECAPlan:
    """Return the plan of the ECAs that `insert_eca` put into a module; without entries where there are none.

    Args:
        module: What `insert_eca` returned, or a copy or an unpickled one.

    Raises:
        TypeError: If it is no linen module.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca, installed_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> installed_eca(net).paths
        ('layers_1',)
    """
    check_type(module)
    sites = sites_of(module)
    gate = sites[0].gate if sites else "2sigmoid"
    init = "identity" if all(site.init == "identity" for site in sites) else "uniform"
    entries = tuple(site.entry for site in sites)
    return ECAPlan("linen", base_class(module).__name__, "paths", gate, init, entries=entries, package=__version__)


def _below(site: Keys, keys: set[Keys]) -> set[Keys]:
    return {key for key in keys if key[: len(site)] == site}


def _check_rest(plain: set[Keys], rest: set[Keys]) -> None:
    differences = [f"{'/'.join(keys)} is missing" for keys in sorted(plain - rest)]
    differences += [f"{'/'.join(keys)} is unexpected" for keys in sorted(rest - plain)]
    if differences:
        raise PlanMismatchError(
            f"variables must be those of this module with ECA. Received: {len(differences)} differences: "
            f"{'; '.join(differences)}. Pass the module that they were trained with."
        )
