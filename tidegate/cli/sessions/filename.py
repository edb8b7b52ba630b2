"""A session's name as the name of a file. A leaf."""

import hashlib
from urllib.parse import quote

STREAM = "-"
SUFFIX = ".tidegate-session"
HARMLESS = " @+=,"
LONGEST = 200
"""Characters of a name, well below what file systems take."""
MARK = 16


def file_name(session_id: str) -> str:
    """A name in this folder, different for different sessions.

    Letters, digits and some signs stay, others are percent-encoded; so is a first character that
    would hide the file or make it look like an option. Long ones end in a digest.
    """
    name = quote(session_id, safe=HARMLESS)
    if name.startswith((".", "-", "~", " ")):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > LONGEST:
        mark = hashlib.sha256(session_id.encode()).hexdigest()[:MARK]
        name = f"{name[:LONGEST]}-{mark}"
    return name + SUFFIX
