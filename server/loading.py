"""Start-up's slow part: bundles become served models. A bad bundle never stops the others."""

from __future__ import annotations

import logging

from server.bundle.repository import Entry, find, load
from server.config import Config
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.probe import probe
from server.errors import BadModel
from server.metrics import Metrics
from server.sessions.models import Models
from server.sessions.served_model import ServedModel

log = logging.getLogger(__name__)


class NoModels(RuntimeError):
    """The repository holds no bundle at all."""


def load_models(config: Config, device: Device, metrics: Metrics, models: Models) -> None:
    """Load, probe and start every model of the repository, then mark `models` ready.

    Raises:
        NoModels: there is no NAME/VERSION folder.
    """
    entries = find(config.model_repository)
    if not entries:
        raise NoModels(f"no NAME/VERSION folder in {config.model_repository}")
    for entry in entries:
        try:
            models.add(_serve(entry, config, device, metrics))
        except BadModel as error:
            log.error("not served: %s", error)
            models.add_broken(entry.name, entry.version, str(error))
        except Exception as error:  # whatever is wrong with one bundle, the others are served
            where = f"{entry.name}/{entry.version}"
            log.exception("not served: %s", where)
            models.add_broken(entry.name, entry.version, f"{where} cannot be loaded: {error!r}")
    models.ready = True


def _serve(entry: Entry, config: Config, device: Device, metrics: Metrics) -> ServedModel:
    bundle = load(entry, config.model_repository)
    engine = Engine(bundle, device, config.max_sessions, config.threads)
    probe(engine, Engine(bundle, device, 2, config.threads))
    model = ServedModel(engine, config, metrics)
    model.start()
    log.info("serving %s/%d on %s", entry.name, entry.version, device.name)
    return model
