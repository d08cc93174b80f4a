"""A model with ECA whose class has an __init__ of its own: the class, and a config that tells of the ECAs.

Such a class makes its graph in its __init__, and its config tells the arguments of that: a model made from them has no
ECA. So a model with ECA is of a subclass, whose config tells the ECAs too and whose `from_config` puts them in.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import keras

from eca_multi.keras._private import same_name_counts
from eca_multi.keras.surgery._find.check import check_model, is_plain, own_class
from eca_multi.keras.surgery._find.finder import Finder
from eca_multi.keras.surgery._find.graph import Network
from eca_multi.keras.surgery._find.kinds import is_eca, kind
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import PlanMismatchError, UnsupportedModelError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import candidates_at, replay

from .clone import same_random_state
from .edits import edits_at
from .installed import InsertedECA, installed_layers
from .rebuild import rebuilt

KEY = "inserted_eca"


@keras.saving.register_keras_serializable(package="eca_multi")
class WithECA:
    """Beside the class of a network, the class of that network with ECA; its name is that class's own.

    Keras finds this class by its registered name, as it finds `ECA`: `import eca_multi.keras` before a file is loaded.
    """

    class_without_eca: Any = None

    def get_config(self) -> dict[str, Any]:
        """Return the config of the class without ECA, and the ECAs under one key more."""
        config = _config_without_eca(self)
        sites = [
            {"entry": asdict(entry), "layer": layer.get_config()} for layer, entry in installed_layers(Network(self))
        ]
        cls = self.class_without_eca
        named = {
            "module": cls.__module__,
            "class_name": cls.__name__,
            "registered_name": keras.saving.get_registered_name(cls),
        }
        return config | {KEY: {"class": named, "operations": _operations(Network(self)), "sites": sites}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Return the model with ECA, without its weights.

        Raises:
            PlanMismatchError: If the class does not make the same network from the config.
        """
        config = dict(config)
        record = config.pop(KEY, None)
        if record is None:
            return cls.class_without_eca.from_config(config)
        finder, entries, layers = _sites_again(_plain(config, record), record)
        if not entries:  # the config of a network inside has told them
            return finder.model
        edits = edits_at(entries, finder, lambda entry, _: partial(InsertedECA.from_config, layers[entry.path]))
        return kept(rebuilt(finder.network, edits))


def kept(model: Any) -> Any:
    """Give each network inside, whose config does not tell its ECAs, the class that does; return the model.

    Raises:
        UnsupportedModelError: If the class makes another network from its config, so that no file could be loaded.
    """
    for graph in reversed(Network(model).graphs):  # from inside out: a config tells what those inside tell
        network = graph.model
        if is_plain(network):
            continue
        names = {layer.name for layer, _ in installed_layers(Network(network))}
        try:
            told = set(_told(network.get_config()))
        except Exception:  # a class without a config cannot be saved, with or without ECA
            continue
        if names - told:
            object.__setattr__(network, "__class__", _class_with_eca(own_class(network)))
            _check_made_again(network)
    return model


@functools.cache
def _class_with_eca(cls: type) -> Any:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    new = type(cls.__name__, (WithECA, cls), names | {"class_without_eca": cls})
    # Under the name of all, and then WithECA again: its from_config reads the class from the config, and a name means
    # the same whatever was made in a process before (keras-hub asks of which class a preset is).
    registered = keras.saving.register_keras_serializable("eca_multi", "WithECA")
    registered(new)
    registered(WithECA)
    return new


def _config_without_eca(model: Any) -> dict[str, Any]:
    """Keras looks at the class of a model to tell its config, so the model is of its own class for that time."""
    cls = type(model)
    object.__setattr__(model, "__class__", cls.class_without_eca)
    try:
        return dict(model.get_config())
    finally:
        object.__setattr__(model, "__class__", cls)


def _told(config: Any) -> Iterator[str]:
    """Yield the names of the inserted ECAs of which a config tells."""
    if isinstance(config, Mapping):
        if config.get("class_name") == InsertedECA.__name__:
            yield config["config"]["name"]
        for site in config[KEY]["sites"] if KEY in config else ():
            yield site["layer"]["name"]
        for value in config.values():
            yield from _told(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _told(value)


def _plain(config: dict[str, Any], record: Mapping[str, Any]) -> Any:
    return keras.saving.deserialize_keras_object({**record["class"], "config": config})


def _check_made_again(model: Any) -> None:
    config = model.get_config()
    record = config.pop(KEY)
    try:
        with same_random_state(), same_name_counts():
            again = own_class(model).from_config(config)
        check_model(again)
    except Exception:  # not with ECA alone: the class cannot make this network again without ECA either
        return
    try:
        _sites_again(again, record)
    except PlanMismatchError as error:
        raise UnsupportedModelError(
            f"model must be of a class that makes the same network from its config. Received: {model.name!r} "
            f"({kind(model)}), whose config makes another: {error} Correct its get_config, or pass keep_class=False "
            "for a plain model with the same graph."
        ) from error


def _sites_again(model: Any, record: Mapping[str, Any]) -> tuple[Finder, list[ECAEntry], dict[str, Any]]:
    """Return what finds the sites in a model that was made again, the entries to carry out, and the layers by path."""
    finder = Finder(model)
    now = _operations(finder.network)
    names = dict(zip(record["operations"], now, strict=False)) if len(now) == len(record["operations"]) else {}
    names = {old: old if old in finder.network.operations else new for old, new in names.items()}
    entries, layers = [], {}
    for site in record["sites"]:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in site["entry"].items()}
        path = names.get(fields["path"], fields["path"])
        entries.append(ECAEntry(**(fields | {"path": path, "aliases": ()})))
        layers[path] = dict(site["layer"])
    plan = ECAPlan("keras", kind(model), entries=tuple(entries))
    return finder, replay(plan, "keras", candidates_at(plan, finder.find)), layers


def _operations(network: Network) -> list[str]:
    """Return the paths of all operations but ECAs, in an order that ECAs do not change.

    Keras counts the names of layers without one through the process, so that a model made again has other names.
    """
    return [network.path(operation) for operation in network.in_order() if not is_eca(operation)]
