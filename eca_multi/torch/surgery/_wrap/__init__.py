"""What stands in a network with ECA: an ECA behind a module, in a module's place, or in an empty slot."""

from eca_multi.surgery.errors import UnsupportedModelError


def __getattr__(name: str) -> None:
    """Answer a pickle of an earlier version, which asks for the wrapper that stood around each site then."""
    if name in ("Gated", "GatedCall"):
        raise UnsupportedModelError(
            "A network that is pickled whole must come from this version. Received: one of an earlier version. With "
            "that version, save model.state_dict() and installed_eca(model); insert_eca(network, plan=...), and load."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
