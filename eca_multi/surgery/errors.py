"""The exceptions of surgery, and the messages that several verbs raise in every framework."""

from collections.abc import Sequence

from eca_multi._printable import PrintableError

from .entry import Skipped


class NoSiteError(PrintableError, LookupError):
    """The network holds no site that fits the request; `skipped` holds all candidates and why none was taken."""

    skipped: tuple[Skipped, ...] = ()


class UnsupportedModelError(PrintableError, TypeError):
    """Surgery cannot change this network; the message names what to pass instead."""


class ChannelInferenceError(PrintableError, ValueError):
    """The number of channels or their axis at a site cannot be known without a run."""


class PlanMismatchError(PrintableError, ValueError):
    """The plan was made for another architecture; the message lists every difference."""


class VerifyError(PrintableError, RuntimeError):
    """The changed network does not do what the plan promised."""


class CausalityError(PrintableError, ValueError):
    """ECAs would carry the future into the past, or one frame into another; the message lists sites and remedy."""


def no_eca(network: str) -> NoSiteError:
    return NoSiteError(f"The network must have ECA. Received: a {network} without it. Call insert_eca first.")


def lost_blocks(paths: Sequence[str]) -> UnsupportedModelError:
    """Return the error for a removal that would have to bring SE blocks back."""
    return UnsupportedModelError(
        "The network must still have its SE blocks to get them back. "
        f"Received: ECA in the place of {', '.join(paths)}, whose weights were dropped. "
        "Build the network anew, or leave these sites out with include."
    )
