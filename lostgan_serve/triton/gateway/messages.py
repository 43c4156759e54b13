"""Messages of gRPC as the JSON that Triton's HTTP gives: all fields by name, 64-bit numbers as numbers."""

from __future__ import annotations

from typing import Any


def as_json(message: Any) -> dict[str, Any]:
    """A message as JSON's types. Fields of a `oneof` that is not set, and messages that are not, are left out."""
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = {str(key): _value(field.message_type.fields_by_name["value"], value[key])
                                    for key in sorted(value)}  # fmt: skip
        elif field.is_repeated:
            document[field.name] = [_value(field, item) for item in value]
        else:
            document[field.name] = _value(field, value)
    return document


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("latin-1") if isinstance(value, bytes) else value
