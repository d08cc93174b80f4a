"""Which inserted ECAs a removal takes."""

from collections.abc import Sequence

from .candidate import Candidate
from .errors import lost_blocks, no_eca
from .patterns import Pattern, check_matches, check_pattern, matches


def removed_sites(network: str, installed: Sequence[Candidate], include: Pattern | None) -> list[Candidate]:
    """Return the sites whose ECA is removed: of the installed ones those that `include` matches; None matches all.

    Raises:
        TypeError, ValueError: If `include` is invalid. NoSiteError: If there is no ECA, or `include` matches none.
        UnsupportedModelError: If an ECA stands in the place of an SE block, which is gone.
    """
    check_pattern("include", include)
    if not installed:
        raise no_eca(network)
    check_matches("include", include, installed)
    removed = [site for site in installed if include is None or matches(include, site)]
    lost = [site.path for site in removed if site.action == "replace"]
    if lost:
        raise lost_blocks(lost)
    return removed
