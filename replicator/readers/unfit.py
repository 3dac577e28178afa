"""Values that the target cannot hold, as an error that names their column (pure)."""

from __future__ import annotations

from typing import Final

from replicator.errors import UnsupportedEvent
from replicator.model import Column, Value
from replicator.typemap.unfit import Converter, Unfit

HINT: Final = (
    "change the value at the source, or say under `columns` what shall become of such values (`unrepresentable: clamp` or"
    " `null`), or leave the table out; what each type can hold is in docs/reference"
)


class ValueUnfit(UnsupportedEvent):
    """A value of the source that the target's column cannot hold."""

    code = "unrepresentable"


def name_column(table: str, column: Column, convert: Converter) -> Converter:
    """``convert``, whose refusals name table and column. Raises ValueUnfit."""

    def convert_or_name(text: bytes) -> Value:
        try:
            return convert(text)
        except Unfit as error:
            raise ValueUnfit(f"{table}:{column.name}: {error}", hint=HINT) from None

    return convert_or_name
