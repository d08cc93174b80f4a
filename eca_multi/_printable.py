"""Make text from outside (names in files, output of other processes) safe for a terminal, a page or a file's name."""

import hashlib
import re
import unicodedata

# Cc: control characters, terminal escapes among them. Cf: invisible characters, and those that reverse the order of
# text. Cs: half a character, which no encoding can write. Zl, Zp: other ends of a line. Co, Cn: no assigned character.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})
_LONGEST_NAME = 100  # characters, bytes too: two of them with a suffix fit into the 255 of most file systems


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return text with each hidden character written as in Python, `\x1b` for escape.

    Args:
        text: Any object; its `str` is used.
        lines: Whether ends of lines and tabs stay.

    Example:
        >>> from eca_multi._printable import printable
        >>> print(printable("conv\x1b[31m.weight\n"))
        conv\x1b[31m.weight\n
    """
    text, kept = str(text), "\n\t" if lines else ""
    if text.isprintable():  # the usual case; a page has a hundred thousand texts
        return text
    return "".join(
        character if character in kept or unicodedata.category(character) not in _HIDDEN else _escaped(character)
        for character in text
    )


def file_name(text: object) -> str:
    """Return text as the name of one file: no folder, and no character that a shell or terminal interprets.

    Letters and digits are ASCII. No two dashes follow each other, so that two dashes can join two names. A changed text
    gets a checksum, so that two texts never have one name.

    Example:
        >>> from eca_multi._printable import file_name
        >>> file_name("keras-jax"), file_name("../mine.py:Layer")
        ('keras-jax', 'mine.py-Layer-364d240e')
    """
    text = str(text)
    name = re.sub(r"[^\w.+=,@-]+|-{2,}", "-", printable(text), flags=re.ASCII).strip("-. ")[:_LONGEST_NAME]
    if name and name == text:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{name or 'unnamed'}-{digest[:8]}"


class PrintableError(Exception):
    """A base of errors whose messages contain text from outside: `str` of the error, and so a traceback, is printable.

    The unchanged message is in `args`.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
