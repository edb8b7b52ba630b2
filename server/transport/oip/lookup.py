"""Models by the protocol's names: a version is a text, empty for whichever there is."""

from __future__ import annotations

import re

from inference import grpc_service_pb2 as pb
from server.errors import BadModel, UnknownModel, UnknownVersion
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.transport.oip.refusals import NoModel, negative_version, no_version

WHOLE = re.compile(r"-?[0-9]{1,18}")


def model(models: Models, name: str, version: str) -> ServedModel:
    """A served model version.

    Raises:
        Refused: the version is no number above 0.
        NoModel: it is not served.
        Starting: the server is still loading.
    """
    number = _number(version)
    try:
        if version and not number:  # none of ours, and not "any" either
            models.resolve(name)
            raise UnknownVersion(name, number)
        return models.resolve(name, number)
    except (UnknownModel, UnknownVersion, BadModel) as error:
        raise NoModel(name, version, error) from error


def models_of(models: Models, name: str, version: str) -> list[ServedModel]:
    """The versions of a model, or one of them, or with no name all models; raises as `model`."""
    if not name:
        return list(models)
    found = model(models, name, version)
    return [found] if version else models.versions(name)


def version_of(request: pb.ModelInferRequest) -> int:
    """The version a request means, to count its failure under; 0 where it names none."""
    version = request.model_version
    return int(version) if WHOLE.fullmatch(version) else 0


def _number(version: str) -> int:
    if not version:
        return 0
    if not WHOLE.fullmatch(version):
        raise no_version(version)
    if version.startswith("-"):
        raise negative_version(version)
    return int(version)
