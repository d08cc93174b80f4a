"""Patterns for the paths of sites: a regular expression, a list of paths or suffixes, or a callable."""

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from .candidate import Candidate
from .errors import NoSiteError

Pattern = str | Sequence[str] | Callable[[str, Any], bool]


def check_pattern(name: str, pattern: Any) -> None:
    """Check a pattern; `name` is the option that holds the pattern."""
    if pattern is None:
        return
    if callable(pattern):
        check_callable(name, pattern)
    elif isinstance(pattern, str):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{name} must be a valid regular expression. Received: {name}={pattern!r} ({error}). "
                "A list holds exact paths or suffixes instead."
            ) from None
    elif not is_list_of_texts(pattern):
        raise TypeError(
            f"{name} must be a regular expression, a list of paths or suffixes, or a callable (path, module). "
            f"Received: {name}={pattern!r}. Pass a str, for example 'layer4.*'."
        )


def check_callable(name: str, function: Callable[..., Any]) -> None:
    """Check that a callable takes a path and a module. Some built-in functions do not tell what they take."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind("", None)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a callable of a path and a module. Received: {name}={function!r} ({error}). "
            "Write, for example, lambda path, module: path.endswith('bn2')."
        ) from None


def is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(text, str) for text in value)


def matches(pattern: Pattern, candidate: Candidate) -> bool:
    """Whether a pattern matches the candidate's path or an alias of it.

    A str is a regular expression for the whole path; a list holds exact paths or dotted suffixes.
    """
    if callable(pattern):
        return any(pattern(name, candidate.module) for name in candidate.names)
    if isinstance(pattern, str):
        return any(re.fullmatch(pattern, name) for name in candidate.names)
    return any(
        name == wanted or name.endswith((f".{wanted}", f"/{wanted}")) for wanted in pattern for name in candidate.names
    )


def check_matches(name: str, pattern: Pattern | None, candidates: Sequence[Candidate]) -> None:
    """Refuse a pattern with a part that matches no candidate: a misspelt name, or a name from another network.

    Raises:
        NoSiteError: With the paths that come near.
    """
    if pattern is None:
        return
    parts: list[Pattern] = [pattern] if isinstance(pattern, str) or callable(pattern) else [[text] for text in pattern]
    unused = [part for part in parts if not any(matches(part, candidate) for candidate in candidates)]
    if unused:
        raise unmatched(name, unused, [path for candidate in candidates for path in candidate.names])


def unmatched(name: str, patterns: Sequence[Pattern], paths: Sequence[str]) -> NoSiteError:
    """Return the error for the parts of the option `name` that match none of the paths."""
    words = [p if isinstance(p, str) else "the callable" if callable(p) else p[0] for p in patterns]
    near = list(dict.fromkeys(n for word in words for n in difflib.get_close_matches(word, paths, 3, 0.5)))
    near = near or list(paths[:3])
    hint = f"Near: {', '.join(near)}." if near else "The model has no candidate at all."
    return NoSiteError(
        f"{name} must match a site of the model. Received: {', '.join(map(repr, words))}, which matches none. {hint}"
    )
