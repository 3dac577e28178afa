"""Text of PostgreSQL's values into canonical values: what is taken, what is refused, and what is put in its place."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.model import Coerced, Column, Kind, Unrepresentable, Value
from replicator.typemap.columntype import parse_type
from replicator.typemap.documents import check_document, expand_exponents
from replicator.typemap.pgvalues import text_converter
from replicator.typemap.postgres import ENUM, OTHER, TYPES, override_type
from replicator.typemap.unfit import Unfit


def make(base: str, target: str, rule: str = "fail", source: str = "") -> Column:
    registration = {"enum": ENUM, "other": OTHER}.get(base) or TYPES[base]
    kind = override_type(registration, target)
    return Column(
        "c", kind, target, base=base, source_type=source or base, unrepresentable=Unrepresentable(rule)
    )


def convert(column: Column, text: str) -> Value:
    converter = text_converter(column)
    return text.encode() if converter is None else converter(text.encode())


FITTING: list[tuple[str, str, str, Value]] = [
    ("bool", "tinyint(1)", "t", 1),
    ("bool", "bit(1)", "f", 0),
    ("int8", "int", "-2147483648", -(2**31)),
    ("int4", "bigint unsigned", "7", 7),
    ("int8", "decimal(20,0)", "-5", b"-5"),
    ("numeric", "decimal(65,30)", "1" * 35 + "." + "2" * 30 + "000", b"1" * 35 + b"." + b"2" * 30),
    ("numeric", "decimal(65,30)", "100", b"100"),
    ("numeric", "decimal(4,1)", "1.00", b"1.0"),
    ("numeric", "decimal(4,0)", "1.00", b"1."),
    ("numeric", "bigint", "-12.000", -12),
    ("money", "decimal(19,2)", "-$1,234.50", b"-1234.50"),
    ("money", "int", "$1,234.00", 1234),
    ("float4", "float", "0.1", 0.10000000149011612),
    ("float4", "double", "0.1", 0.10000000149011612),
    ("float8", "double", "-0", -0.0),
    ("float8", "varchar(10)", "NaN", b"NaN"),
    ("bit", "bit(3)", "101", 5),
    ("bit", "tinyint", "101", 5),
    ("date", "varchar(20)", "infinity", b"infinity"),
    ("timestamptz", "datetime(6)", "2024-01-02 03:04:05.6+00", b"2024-01-02 03:04:05.6"),
    ("timestamptz", "timestamp", "2024-01-02 03:04:05+00", b"2024-01-02 03:04:05"),
    ("time", "time", "24:00:00", b"24:00:00"),
    ("uuid", "binary(16)", "00000000-0000-0000-0000-0000000000ff", b"\0" * 15 + b"\xff"),
    ("bytea", "binary(2)", "\\x00ff", b"\0\xff"),
    ("text", "varchar(2)", "日本", "日本".encode()),
    ("text", "tinytext", "x" * 255, b"x" * 255),
    ("char", "varchar(4)", "a", b"a"),
    ("enum", "varchar(63)", "ok", b"ok"),
    ("jsonb", "json", "1.10", b"1.10"),
]


@pytest.mark.parametrize(("base", "target", "text", "value"), FITTING)
def test_what_fits(base: str, target: str, text: str, value: Value) -> None:
    found = convert(make(base, target), text)
    assert found == value
    assert repr(found) == repr(value)
    assert convert(make(base, target, "null"), text) == value


UNFIT: list[
    tuple[str, str, str, Value]
] = [  # the last: what `clamp` puts in its place, None where that fails too
    ("int8", "int", "2147483648", 2**31 - 1),
    ("int8", "int unsigned", "-1", 0),
    ("numeric", "bigint", "1.5", 2),
    ("numeric", "bigint", "-" + "9" * 5000, -(2**63)),
    ("numeric", "bigint", "NaN", None),
    ("numeric", "decimal(65,30)", "NaN", None),
    ("numeric", "decimal(65,30)", "Infinity", b"9" * 35 + b"." + b"9" * 30),
    ("numeric", "decimal(5,2)", "-Infinity", b"-999.99"),
    ("numeric", "decimal(5,2)", "999.995", b"999.99"),
    ("numeric", "decimal(5,2)", "-1.005", b"-1.01"),
    ("numeric", "decimal(65,30)", "-1" + "0" * 1000, b"-" + b"9" * 35 + b"." + b"9" * 30),
    ("numeric", "decimal(65,30)", "0." + "0" * 16000 + "1", b"0." + b"0" * 30),
    ("float8", "double", "Infinity", 1.7976931348623157e308),
    ("float4", "float", "-Infinity", -3.4028234663852886e38),
    ("float4", "float", "NaN", None),
    ("date", "date", "infinity", b"9999-12-31"),
    ("date", "date", "0044-03-15 BC", b"0000-01-01"),
    ("date", "date", "5874897-12-31", b"9999-12-31"),
    ("timestamp", "datetime(3)", "294276-12-31 23:59:59.999999", b"9999-12-31 23:59:59.999"),
    ("timestamp", "datetime", "infinity", b"9999-12-31 23:59:59"),
    ("timestamptz", "datetime(6)", "-infinity", b"0000-01-01 00:00:00"),
    ("timestamptz", "datetime(6)", "4713-01-01 00:00:00+00 BC", b"0000-01-01 00:00:00"),
    ("timestamptz", "timestamp", "2040-01-01 00:00:00+00", b"2038-01-19 03:14:07"),
    ("timestamptz", "timestamp", "1969-12-31 23:59:59+00", b"1970-01-01 00:00:01"),
    ("timestamp", "datetime", "2024-01-02 03:04:05.9", b"2024-01-02 03:04:05"),
    ("time", "time(3)", "03:04:05.678901", b"03:04:05.678"),
    ("text", "varchar(2)", "日本語", "日本".encode()),
    ("text", "tinytext", "x" * 254 + "ü", b"x" * 254),
    ("text", "char(5)", "a ", b"a"),
    ("bytea", "varbinary(2)", "\\x000102", b"\0\1"),
    ("bytea", "binary(3)", "\\x00", b"\0\0\0"),
    ("bit", "bit(3)", "10", None),
    ("json", "json", "[1e400]", None),
]


@pytest.mark.parametrize(("base", "target", "text", "nearest"), UNFIT)
def test_what_does_not_fit(base: str, target: str, text: str, nearest: Value) -> None:
    with pytest.raises(Unfit):
        convert(make(base, target), text)
    assert convert(make(base, target, "null"), text) == Coerced(None, text.encode())
    if nearest is None:
        with pytest.raises(Unfit, match="nothing is near to it"):
            convert(make(base, target, "clamp"), text)
        return
    coerced = convert(make(base, target, "clamp"), text)
    assert coerced == Coerced(nearest, text.encode())  # type: ignore[arg-type]
    assert base == "bytea" or convert(make(base, target), _print(nearest)) == nearest


def _print(value: Value) -> str:
    return value.decode() if isinstance(value, bytes) else repr(value)


def test_a_bare_byte_is_shown_as_newer_servers_show_it() -> None:
    converter = text_converter(make("char", "varchar(4)"))
    assert converter is not None
    assert converter(b"\xff") == b"\\377"


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("DECIMAL (20, 4)", "decimal(20,4)"),
        ("numeric", "decimal(10,0)"),
        ("Double Precision", "double"),
        ("bigint unsigned", "bigint unsigned"),
        ("boolean", "tinyint(1)"),
        ("datetime(0)", "datetime"),
        ("binary(16)", "binary(16)"),
        ("char", "char(1)"),
    ],
)
def test_types_are_spelt_in_one_way(text: str, spelt: str) -> None:
    assert parse_type(text) == spelt
    assert parse_type(spelt) == spelt


@pytest.mark.parametrize(
    "text",
    [
        "varchar",
        "uuid",
        "decimal(66,2)",
        "decimal(4,5)",
        "decimal(65,31)",
        "int(5)",
        "date(3)",
        "bit(65)",
        "char(0)",
        "text unsigned",
        "varchar(20000)",
        "datetime(7)",
        "int) drop table x",
        "enum('a')",
        "",
        "tinyint(4)",
    ],
)
def test_types_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_type(text)


@pytest.mark.parametrize(
    ("base", "target"),
    [
        ("uuid", "binary(15)"),
        ("text", "int"),
        ("int4", "tinyint(1)"),
        ("float8", "decimal(9,2)"),
        ("date", "datetime"),
        ("timestamp", "timestamp"),
        ("numeric", "double"),
        ("other", "json"),
    ],
)
def test_types_that_a_column_cannot_become(base: str, target: str) -> None:
    with pytest.raises(ValueError, match="cannot become"):
        override_type(OTHER if base == "other" else TYPES[base], target)


def test_a_double_that_becomes_a_single_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot become"):
        override_type(TYPES["float8"], "float")


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=None), st.integers(1, 65), st.integers(0, 30)
)
def test_decimals_are_the_nearest(number: Decimal, digits: int, scale: int) -> None:
    digits = max(digits, scale)
    column = make("numeric", f"decimal({digits},{scale})", "clamp")
    text = f"{number:f}"
    if len(text) > 2000:
        return
    found = convert(column, text)
    limit = (Decimal(10) ** digits - 1).scaleb(-scale)
    stored = Decimal(text)
    if isinstance(found, Coerced):
        assert isinstance(found.value, bytes)
        value = Decimal(found.value.decode())
        assert value != stored
        assert abs(value) <= limit
        assert abs(value - stored) <= Decimal(5).scaleb(-scale - 1) or abs(value) == limit
    else:
        assert isinstance(found, bytes)
        assert Decimal(found.decode()) == stored
        assert abs(stored) <= limit


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        (b'{"1e5": 1e5}', b'{"1e5": 100000.0}'),
        (b"[1E-2, 123456789012345678e3]", b"[0.01, 123456789012345678000]"),
        (b"[1.2345678901234567890e1]", b"[12.345678901234567890]"),
        (b'"\\" 1e5"', b'"\\" 1e5"'),
        (b"[0e5]", b"[0.0]"),
    ],
)
def test_exponents(text: bytes, expanded: bytes) -> None:
    assert expand_exponents(text) == expanded


def test_documents_beyond_the_targets() -> None:
    with pytest.raises(Unfit) as found:
        check_document(b'{"a": [1' + b"0" * 400 + b", 0." + b"1" * 40 + b', "0.' + b"1" * 40 + b'"]}')
    assert (
        found.value.nearest == b'{"a": [1.7976931348623157e308, 0.1111111111111111, "0.' + b"1" * 40 + b'"]}'
    )
    with pytest.raises(Unfit, match="101 levels"):
        check_document(b"[" * 101 + b"]" * 101)
    deep = b"[" * 100 + b"1.10" + b"]" * 100
    assert check_document(deep) == deep


def test_kinds_of_overrides() -> None:
    assert override_type(TYPES["float4"], "float") is Kind.FLOAT
    assert override_type(TYPES["float4"], "double") is Kind.DOUBLE
    assert override_type(TYPES["uuid"], "binary(16)") is Kind.BINARY
    assert override_type(TYPES["uuid"], "char(36)") is Kind.TEXT
