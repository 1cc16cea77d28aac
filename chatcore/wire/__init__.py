"""The border between JSON and Python values. What comes in is parsed here, once, and strictly.

loads, dumps            JSON text to plain values and back
canonical               the one JSON text of a value, to compare and to hash
structure, unstructure  plain values to attrs values and back
schema_of               the JSON Schema of a type
signature_of            the JSON Schema of a function's parameters, and their check
"""

from chatcore.wire.converter import rest, structure
from chatcore.wire.hints import fields_of, plain_types
from chatcore.wire.schema import Schemas, schema_of
from chatcore.wire.signature import Signature, signature_of
from chatcore.wire.text import JsonValue, canonical, dumps, loads, unstructure

__all__ = [
    "JsonValue",
    "Schemas",
    "Signature",
    "canonical",
    "dumps",
    "fields_of",
    "loads",
    "plain_types",
    "rest",
    "schema_of",
    "signature_of",
    "structure",
    "unstructure",
]
