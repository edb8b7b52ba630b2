"""A protocol as plain values. `python -m tests.server.oip.contract` prints Tidegate's own."""

from __future__ import annotations

import json
from typing import Any


def contract(*files: Any) -> dict[str, list[Any]]:
    """Every field, value and rpc by its full name; what is the same on the wire is equal."""
    found: dict[str, list[Any]] = {}
    for file in files:
        for message in file.message_types_by_name.values():
            _add(message, found)
        for enum in file.enum_types_by_name.values():
            found |= {f"{enum.full_name}.{value.name}": [value.number] for value in enum.values}
        for service in file.services_by_name.values():
            for rpc in service.methods:
                found[rpc.full_name] = [
                    rpc.input_type.full_name, rpc.output_type.full_name,
                    rpc.client_streaming, rpc.server_streaming,
                ]  # fmt: skip
    return found


def _add(message: Any, found: dict[str, list[Any]]) -> None:
    for field in message.fields:
        kind = field.message_type or field.enum_type
        found[field.full_name] = [
            field.number, field.type, field.is_repeated, kind.full_name if kind else "",
        ]  # fmt: skip
    for nested in message.nested_types:
        _add(nested, found)


if __name__ == "__main__":
    from inference import grpc_service_pb2, model_config_pb2

    print(json.dumps(contract(grpc_service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)))
