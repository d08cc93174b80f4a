"""What is in a model already: installed_eca, remove_eca, infer_plan."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eca_multi import __version__
from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError, UnsupportedModelError
from eca_multi.surgery.patterns import Pattern, matches
from eca_multi.surgery.plan import ECAPlan

from ._checks import check_model
from ._finders import FINDERS
from ._graph import Call, Graph, Network
from ._inserted import InsertedECA
from ._kinds import is_add, is_eca, is_passing, kind
from ._places import Places
from ._rebuild import Edits, Rebuild

KEY = re.compile(r"(.*)_eca(?:_\d+)?/kernel")


def installed_eca(model: Any) -> ECAPlan:
    """Return the plan of what `insert_eca` put into a model, read from its graph.

    It holds after a reload too. ECA layers of the network's own are not listed.

    Args:
        model: Functional or Sequential.

    Returns:
        A plan; without entries where nothing is in it.

    Raises:
        UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import insert_eca, installed_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> installed_eca(insert_eca(model, "conv")).paths
        ('conv',)
    """
    check_model(model)
    network = Network(model)
    found = found_in(network)
    layers = [layer for layer, _ in found]
    first = layers[0] if layers else None
    wheres = {layer.where for layer in layers}
    return ECAPlan(
        "keras",
        kind(model),
        where=wheres.pop() if len(wheres) == 1 else "paths",
        gate=str(first.gate) if first else "2sigmoid",
        init=first.init if first else "identity",
        gamma=first.gamma if first else 2,
        beta=first.beta if first else 1,
        entries=tuple(entry for _, entry in found),
        model_parameters=(model.count_params() - sum(x.count_params() for x in layers)) if model.built else 0,
        package=__version__,
    )


def remove_eca(model: Any, include: Pattern | None = None) -> Any:
    """Return a new model without what `insert_eca` put in; weights are copied, `model` is not changed.

    Args:
        model: Functional or Sequential.
        include: Which sites alone; as in `plan_eca`.

    Returns:
        The new model, with the layers, their order and the outputs of the one before insertion.

    Raises:
        NoSiteError: If nothing is in it, or nothing that `include` names.
        UnsupportedModelError: If an ECA stands in place of an SE block, whose layers are gone, or the model has no
            graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import insert_eca, remove_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> [layer.name for layer in remove_eca(insert_eca(model, "conv")).layers]
        ['conv']
    """
    check_model(model)
    network = Network(model)
    found = found_in(network)
    chosen = [(layer, entry) for layer, entry in found if include is None or _is_in(include, layer, entry)]
    if not chosen:
        has = f"ECA at {', '.join(e.path for _, e in found[:4])}" if found else "no ECA of insert_eca in the model"
        raise NoSiteError(
            f"include must match an inserted ECA. Received: include={include!r}; there is {has}. "
            "installed_eca(model) lists them."
        )
    return rebuilt_without(network, chosen)


def rebuilt_without(network: Network, chosen: Sequence[tuple[InsertedECA, ECAEntry]], compiled: bool = True) -> Any:
    """A new model without these ECAs; also where there are none."""
    replaced = [entry.path for _, entry in chosen if entry.action == "replace"]
    if replaced:
        raise UnsupportedModelError(
            f"include must leave out ECA in place of SE blocks. Received: {', '.join(replaced)}, whose SE layers were "
            "dropped and cannot come back. Go back to the model before insert_eca, which it did not change."
        )
    return Rebuild(network, Edits(dropped={id(layer) for layer, _ in chosen})).run(compiled)


def infer_plan(model: Any, state: Mapping[str, Any], *, gate: str = "2sigmoid") -> ECAPlan:
    """Return the plan that a state's keys and kernel sizes tell, for a model without ECA.

    Args:
        model: Of the architecture that the state is of, without ECA.
        state: {"<site>_eca/kernel": kernel}, as `eca_state` returns; other keys are passed over.
        gate: Of these ECAs, which no key tells.

    Returns:
        A plan for `insert_eca(model, plan=...)`; `load_eca_state` then loads the kernels.

    Raises:
        NoSiteError: If the state holds no ECA. PlanMismatchError: If the model lacks their sites.

    Example:
        >>> import keras
        >>> from eca_multi.keras import eca_state, infer_plan, insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> state = eca_state(insert_eca(model, "conv", kernel_size=5))
        >>> infer_plan(model, state).entries[0].kernel_size
        5
    """
    check_model(model)
    network = Network(model)
    places = Places(network)
    kernels = {m.group(1): value for key, value in state.items() if (m := KEY.fullmatch(key))}
    if not kernels:
        raise NoSiteError(
            f"state must hold kernels of ECA, '<site>_eca/kernel'. Received: {len(state)} keys, none of them. "
            "Pass what eca_state returned."
        )
    missing = [path for path in kernels if path not in network.operations]
    if missing:
        raise PlanMismatchError(
            f"state must fit the model. Received: {len(missing)} differences: "
            f"{'; '.join(f'{path}: is not there' for path in missing)}. Pass the architecture that it was saved from."
        )
    sites = {path: places.site(network.operations[path]) for path in kernels}
    sites |= {
        site.candidate.path: site
        for where in ("residual", "se")
        for site in FINDERS[where](places)
        if site.candidate.path in kernels and site.candidate.into + where != "residual"
    }
    entries = tuple(_entry(site.candidate, int(kernels[path].shape[0])) for path, site in sites.items())
    return ECAPlan(
        "keras",
        kind(model),
        where="paths",
        gate=gate,
        init="identity" if gate == "2sigmoid" else "uniform",
        entries=entries,
        model_parameters=model.count_params() if model.built else 0,
        notes=("read from the keys of a state; the gate is not in them",),
        package=__version__,
    )


def _entry(c: Candidate, k: int) -> ECAEntry:
    return ECAEntry(
        c.path, c.action, c.module_type, c.tensor, c.channels or 0, c.layout, k, k, c.into, c.aliases, c.calls, False
    )


def _is_in(include: Pattern, layer: Any, entry: ECAEntry) -> bool:
    return matches(include, Candidate(entry.path, layer, aliases=entry.aliases))


def found_in(network: Network) -> list[tuple[InsertedECA, ECAEntry]]:
    """Each inserted layer and the entry that it carries out, in the network's order."""
    places = Places(network)
    first: dict[int, tuple[Graph, Call]] = {}
    for graph, call in network.ordered():
        if isinstance(call.operation, InsertedECA):
            first.setdefault(id(call.operation), (graph, call))
    return [(call.operation, _read(places, graph, call)) for graph, call in first.values()]


def _read(places: Places, graph: Graph, call: Call) -> ECAEntry:
    layer, network = call.operation, places.network
    source = graph.producer.get(id(call.inputs[0]))
    while source is not None and is_eca(source.operation):
        source = graph.producer.get(id(source.inputs[0]))
    adds = _adds(network, layer) if layer.action == "before_add" else []
    into = ", ".join(network.path(add) for add in adds)
    path = graph.name(layer).removesuffix(layer.name) + layer.site
    aliases: tuple[str, ...] = ()
    if source is not None and layer.action != "replace":
        path, aliases = network.path(source.operation), network.aliases(source.operation)
    identity = layer.init == "identity" and layer.action != "replace"
    return ECAEntry(
        path=path,
        action=layer.action,
        module_type=kind(source.operation) if source is not None and layer.action != "replace" else "",
        tensor={"before_add": f"residual branch into {into}", "replace": "the input of the SE block"}.get(
            layer.action, "its output"
        ),
        channels=_channels(layer, call),
        layout=layer.data_format,
        kernel_size=layer.kernel_size,
        parameters=layer.kernel_size,
        into=into,
        aliases=aliases,
        calls=network.times(layer) if call.node is not None else None,
        keeps_output=identity,
    )


def _channels(layer: InsertedECA, call: Call) -> int:
    shape = call.outputs[0].shape
    return 0 if shape is None else int(shape[layer.channel_axis] or 0)


def _adds(network: Network, layer: InsertedECA) -> list[Any]:
    """The adds that an ECA's output runs into, over Dropout and its like."""
    found: dict[int, Any] = {}
    for graph, call in network.calls():
        if call.operation is not layer:
            continue
        todo = [call.outputs[0]]
        while todo:
            for consumer in graph.consumers.get(id(todo.pop()), []):
                if is_add(consumer.operation):
                    found[id(consumer.operation)] = consumer.operation
                elif is_passing(consumer.operation) or is_eca(consumer.operation):
                    todo += consumer.outputs
    return list(found.values())
