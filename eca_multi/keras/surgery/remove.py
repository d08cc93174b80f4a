"""Take ECA out of a Keras network."""

from typing import Any

from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.remove import removed_sites

from ._find.check import check_model
from ._find.graph import Network
from ._find.kinds import kind
from ._wrap.edits import Edits
from ._wrap.installed import installed_layers
from ._wrap.kept import kept
from ._wrap.rebuild import rebuilt


def remove_eca(model: Any, include: Pattern | None = None) -> Any:
    """Return a new model without what `insert_eca` put in; weights are copied, `model` is not changed.

    Args:
        model: Functional or Sequential.
        include: Which sites alone; as in `plan_eca`.

    Returns:
        The new model, with the layers, their order and the outputs of the one before insertion.

    Raises:
        NoSiteError: If the model has no inserted ECA, or none that `include` names.
        UnsupportedModelError: If an ECA stands in place of an SE block, whose layers are gone, or the model has no
            graph to read.
        TypeError, ValueError: If `include` is invalid.

    Example:
        >>> import keras
        >>> from eca_multi.keras import insert_eca, remove_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> [layer.name for layer in remove_eca(insert_eca(model, "conv")).layers]
        ['conv']
    """
    check_model(model)
    network = Network(model)
    installed = installed_layers(network)
    sites = [Candidate(entry.path, layer, entry.action, aliases=entry.aliases) for layer, entry in installed]
    removed = removed_sites(kind(model), sites, include)
    return kept(rebuilt(network, Edits(dropped={id(site.module) for site in removed})))
