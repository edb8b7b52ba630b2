"""Sessions and models as protocol messages."""

from __future__ import annotations

from server.sessions.served_model import ServedModel
from server.sessions.table import SessionInfo
from tidegate.v1 import tidegate_pb2 as pb


def session(info: SessionInfo) -> pb.Session:
    """A live session."""
    message = pb.Session(
        model=info.model, version=info.version, session_id=info.session_id, steps=info.steps
    )
    message.opened_at.FromMicroseconds(int(info.opened_at * 1e6))
    message.last_used_at.FromMicroseconds(int(info.last_used_at * 1e6))
    message.expires_at.FromMicroseconds(int(info.expires_at * 1e6))
    return message


def model(served: ServedModel) -> pb.Model:
    """A served model version."""
    manifest = served.manifest
    return pb.Model(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        features=[
            pb.Feature(name=f.name, unit=f.unit, missing=f.missing, labels=f.labels)
            for f in manifest.features
        ],
        outputs=[
            pb.Output(name=o.name, size=o.size, kind=o.kind, unit=o.unit, labels=o.labels)
            for o in manifest.outputs
        ],
        max_chunk=manifest.max_chunk,
        device=served.device,
        max_sessions=served.capacity,
        feeds_back=manifest.feedback is not None,
        max_forecast=served.max_forecast,
    )
