"""Fetches the metrics page."""

import http.client
import time
import urllib.error
import urllib.request

from tidegate.cli.failure import Failure
from tidegate.cli.top.page import Page, read_page

SECONDS = 2.0
MOST_BYTES = 32 << 20


class NoPage(Failure):
    """There is no page to read now; later there may be."""


def scrape(url: str) -> Page:
    """Fetch and read the page.

    Raises:
        NoPage: no answer, or another one.
    """
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as reply:
            body = reply.read(MOST_BYTES)
        return read_page(body.decode(), time.monotonic())
    except urllib.error.HTTPError as error:
        error.close()
        raise NoPage(f"{url} answers with status {error.code}") from None
    except (OSError, http.client.HTTPException):
        raise NoPage(f"no answer from {url}") from None
    except (ValueError, KeyError):
        raise NoPage(f"{url} is no metrics page of a Tidegate server") from None
