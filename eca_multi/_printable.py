"""Text from outside (names in files, words of other processes) on its way to a terminal, a page or a file's name."""

import re
import unicodedata

# Cc: control characters, terminal escapes among them. Cf: what turns the order of text around or is not seen.
# Cs: half a character, which no encoding can write. Zl, Zp: other ends of a line. Co and Cn stand for nothing.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})
_LONGEST_NAME = 100  # characters: with a suffix it fits into the 255 bytes of most file systems


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return text in which every character is seen as itself: others are written as in Python, `\x1b` for escape.

    Args:
        text: What is to be shown; `str` of it is taken.
        lines: Whether ends of lines and tabs stay as they are.

    Example:
        >>> from eca_multi._printable import printable
        >>> print(printable("conv\x1b[31m.weight\n"))
        conv\x1b[31m.weight\n
    """
    kept = "\n\t" if lines else ""
    return "".join(
        character if character in kept or unicodedata.category(character) not in _HIDDEN else _escaped(character)
        for character in str(text)
    )


def file_name(text: object) -> str:
    """Return text as the name of one file: no folder, nothing that a shell or a terminal takes for more.

    Example:
        >>> from eca_multi._printable import file_name
        >>> file_name("../mine.py:Layer")
        'mine.py-Layer'
    """
    name = re.sub(r"[^\w.+=,@-]+", "-", printable(text)).strip("-. ")
    return name[:_LONGEST_NAME] or "unnamed"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
