"""Models by the protocol's names: a version is a text, empty for whichever there is."""

from __future__ import annotations

from server.errors import BadModel, UnknownModel, UnknownVersion
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.transport.oip.refusals import NoModel


def model(models: Models, name: str, version: str) -> ServedModel:
    """A served model version.

    Raises:
        NoModel: it is not served.
        Starting: the server is still loading.
    """
    number = _number(version)
    try:
        if number is None:
            raise UnknownVersion(name, 0)
        return models.resolve(name, number)
    except (UnknownModel, UnknownVersion, BadModel) as error:
        raise NoModel(name, version, error) from error


def models_of(models: Models, name: str, version: str) -> list[ServedModel]:
    """The versions of a model, or one of them, or with no name all models; raises as `model`."""
    if not name:
        return list(models)
    found = model(models, name, version)
    return [found] if version else models.versions(name)


def _number(version: str) -> int | None:
    if not version:
        return 0
    if version.isascii() and version.isdigit() and 0 < int(version[:19]) < 2**62:
        return int(version[:19])
    return None
