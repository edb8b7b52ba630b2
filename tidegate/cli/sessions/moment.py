"""A moment as text. A leaf."""

from datetime import datetime


def moment(when: datetime) -> str:
    """ISO 8601, to the second, in UTC."""
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
