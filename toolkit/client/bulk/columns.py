"""Kept columns: what becomes of their types on the way from one file format to another.

Parquet has a type per column, JSON one per value. From Parquet to Parquet types stay as they are; to JSON, what JSON
lacks becomes text. From JSON (and CSV) to Parquet a column's type is known only when the last value has been seen:
until then the values wait as JSON, and `settled` finds it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from toolkit.errors import InputError, MissingExtraError

__all__ = [
    "holds",
    "json_field",
    "json_value",
    "kept_array",
    "kept_type",
    "parquet_module",
    "settled",
    "text_type",
    "typed",
    "widened",
    "wider",
]

_JSON = {b"sentence-serving": b"json"}  # metadata of a field whose strings are JSON


def parquet_module() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "bulk") from None
    return pyarrow.parquet


def kept_type(where: str, kind: Any, exact: bool) -> Any:
    """The Arrow type that a Parquet column of type ``kind`` is read as.

    ``exact``: for Parquet again, without dictionaries and extensions, which are ways to store other types. Else for
    JSON: dates, times and decimals become text, durations the number of their units. Raises `InputError`, beginning
    with ``where``, for types of which no value can be kept.
    """
    import pyarrow
    from pyarrow import types

    def inner(part: Any) -> Any:
        return kept_type(where, part, exact)

    if isinstance(kind, pyarrow.BaseExtensionType):
        return inner(kind.storage_type)
    if types.is_dictionary(kind):
        return inner(kind.value_type)
    if types.is_struct(kind) and kind.num_fields:
        return pyarrow.struct([field.with_type(inner(field.type)) for field in kind])
    if types.is_map(kind):
        return pyarrow.map_(inner(kind.key_type), inner(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(inner(kind.value_type), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        return pyarrow.list_(inner(kind.value_type))
    if types.is_decimal(kind) or types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind):
        return kind if exact else pyarrow.string()
    if types.is_float16(kind) and not exact:
        return pyarrow.float32()
    if types.is_string_view(kind):
        return pyarrow.string()
    if types.is_binary_view(kind):
        return pyarrow.binary()
    if types.is_duration(kind):
        return kind if exact else pyarrow.int64()
    if _is_text(kind) or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return kind
    raise InputError(f"{where} is of type {kind}, which cannot be kept")


def text_type(where: str, kind: Any) -> Any:
    """The Arrow type that a Parquet column of texts is read as; raises `InputError` if it holds something else."""
    plain = kept_type(where, kind, exact=True)
    if not _is_text(plain):
        raise InputError(f"{where} is of type {kind}; texts are strings, or bytes in UTF-8")
    return plain


def _is_text(kind: Any) -> bool:
    """Strings, bytes, or nothing but nulls."""
    from pyarrow import types

    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return types.is_null(kind) or any(check(kind) for check in texts)


def json_value(value: Any) -> Any:
    """What JSON writes for a value that it has no form for: bytes as TF Serving's REST API does."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def kept_array(values: Sequence[Any]) -> tuple[Any, dict[bytes, bytes] | None]:
    """A column of kept values as an Arrow array, and its field's metadata. Values of Parquet are Arrow scalars."""
    import pyarrow

    if isinstance(values[0], pyarrow.Scalar):
        return pyarrow.array(values, values[0].type), None
    # ASCII, so that half a surrogate pair, which JSON allows and UTF-8 does not, waits as its escape
    texts = [None if value is None else json.dumps(value) for value in values]
    return pyarrow.array(texts, pyarrow.string()), _JSON


def settled(tables: Callable[[], Iterable[Any]], schema: Any) -> Any:
    """``schema``, of all parts of a table, with a type for each column that waits as JSON.

    That is the one type that holds every value as it is; where there is none, the column stays JSON.
    ``tables`` gives the parts, each time anew.
    """
    import pyarrow

    fields = []
    for field in schema:
        if field.metadata == _JSON:
            kind = _common(field.name, tables)
            field = pyarrow.field(field.name, kind or pyarrow.string(), metadata=None if kind else _JSON)
        fields.append(field)
    return pyarrow.schema(fields)


def typed(table: Any, schema: Any) -> Any:
    """``table``, a part, with the types of ``schema``, which `settled` made."""
    import pyarrow

    columns = [
        table[field.name].cast(field.type)
        if field.metadata == _JSON or table.schema.field(field.name).metadata != _JSON
        else pyarrow.array(_values(table[field.name]), field.type)
        for field in schema
    ]
    return pyarrow.table(columns, names=schema.names)


def _common(name: str, tables: Callable[[], Iterable[Any]]) -> Any:
    """The type that holds all values of a JSON column, or ``None``."""
    import pyarrow

    kind = pyarrow.null()
    for table in tables():
        kind = widened(kind, _values(table[name]))
    # what one part takes for whole numbers may be too large for another's fractions
    return kind if kind is not None and all(holds(kind, _values(table[name])) for table in tables()) else None


def widened(kind: Any, values: Sequence[Any]) -> Any:
    """The narrowest type that holds ``kind`` and what JSON ``values`` look like; ``None``, which no type widens, if
    there is none."""
    import pyarrow

    try:
        return None if kind is None else wider(kind, pyarrow.array(values).type)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        return None


def wider(kind: Any, other: Any) -> Any:
    """The type that holds both, or ``None``."""
    import pyarrow

    if kind is None or other is None:
        return None
    try:
        schemas = [pyarrow.schema([("", part)]) for part in (kind, other)]
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pyarrow.ArrowException:
        return None


def holds(kind: Any, values: Sequence[Any]) -> bool:
    """Whether a column of this type can hold JSON ``values``, and a file such a column."""
    import pyarrow

    try:
        pyarrow.array(values, kind)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        return False
    return not _is_hollow(kind)


def json_field(name: str) -> Any:
    """A column whose values no one type holds: it stays JSON."""
    import pyarrow

    return pyarrow.field(name, pyarrow.string(), metadata=_JSON)


def _values(column: Any) -> list[Any]:
    return [None if text is None else json.loads(text) for text in column.to_pylist()]


def _is_hollow(kind: Any) -> bool:
    """Whether there is a struct without fields in it, which Parquet cannot hold."""
    from pyarrow import types

    if types.is_list(kind):
        return _is_hollow(kind.value_type)
    return types.is_struct(kind) and (not kind.num_fields or any(_is_hollow(field.type) for field in kind))
