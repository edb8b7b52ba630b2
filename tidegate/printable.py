r"""Text that others chose, for terminals and logs: one line, which does nothing but be read.

Session ids, labels and error messages may hold line ends, escape codes that recolour or rewrite a
terminal, and marks that turn the direction of writing. Imports nothing, so that either end may
import it.
"""


def printable(text: str) -> str:
    r"""The text in one line of printable characters: others as Python writes them in a string,
    `\n`, `\x1b`, `\u202e`, and a backslash as two. Different texts stay different, and none is
    lost: Python reads the result as the text between quotes.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode()
