"""Which character set a collation number of the log means, and how its ENUM and SET labels read; pure.

The numbers are those both products print in information_schema (MySQL 9.7: 286, MariaDB 10.11: 1,242).
"""

from __future__ import annotations

from typing import Final

BINARY: Final = 63

_RANGES: Final[dict[str, tuple[int | tuple[int, int], ...]]] = {
    "armscii8": (32, 64),
    "ascii": (11, 65),
    "big5": (1, 84),
    "binary": (63,),
    "cp1250": (26, 34, 44, 66, 99),
    "cp1251": (14, 23, (50, 52)),
    "cp1256": (57, 67),
    "cp1257": (29, 58, 59),
    "cp850": (4, 80),
    "cp852": (40, 81),
    "cp866": (36, 68),
    "cp932": (95, 96),
    "dec8": (3, 69),
    "eucjpms": (97, 98),
    "euckr": (19, 85),
    "gb18030": ((248, 250),),
    "gb2312": (24, 86),
    "gbk": (28, 87),
    "geostd8": (92, 93),
    "greek": (25, 70),
    "hebrew": (16, 71),
    "hp8": (6, 72),
    "keybcs2": (37, 73),
    "koi8r": (7, 74),
    "koi8u": (22, 75),
    "latin1": (5, 8, 15, 31, (47, 49), 94),
    "latin2": (2, 9, 21, 27, 77),
    "latin5": (30, 78),
    "latin7": (20, 41, 42, 79),
    "macce": (38, 43),
    "macroman": (39, 53),
    "sjis": (13, 88),
    "swe7": (10, 82),
    "tis620": (18, 89),
    "ucs2": (35, 90, (128, 159), (640, 642)),
    "ujis": (12, 91),
    "utf16": (54, 55, (101, 124), (672, 674)),
    "utf16le": (56, 62),
    "utf32": (60, 61, (160, 183), (736, 738)),
    "utf8mb3": (33, 76, 83, (192, 223), (576, 578)),
    "utf8mb4": (45, 46, (224, 247), (255, 323), (608, 610)),
}


def _expand() -> dict[int, str]:
    return {
        number: charset
        for charset, ranges in _RANGES.items()
        for span in ranges
        for number in ([span] if isinstance(span, int) else range(span[0], span[1] + 1))
    }


_CHARSETS: Final = _expand()
_MARIADB_NO_PAD: Final = 1024  # added to the number of the padding collation
_MARIADB_UCA1400: Final = 2048
_UCA1400_CHARSETS: Final = ("utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32")

# Python's codecs by MySQL's names; they agree on letters, which is what labels are made of.
_CODECS: Final = {
    "ascii": "ascii", "big5": "big5", "cp1250": "cp1250", "cp1251": "cp1251", "cp1256": "cp1256",
    "cp1257": "cp1257", "cp850": "cp850", "cp852": "cp852", "cp866": "cp866", "cp932": "cp932",
    "eucjpms": "euc_jp", "euckr": "euc_kr", "gb18030": "gb18030", "gb2312": "gb2312", "gbk": "gbk",
    "greek": "iso8859_7", "hebrew": "iso8859_8", "hp8": "hp_roman8", "koi8r": "koi8_r", "koi8u": "koi8_u",
    "latin1": "cp1252", "latin2": "iso8859_2", "latin5": "iso8859_9", "latin7": "iso8859_13",
    "macce": "mac_latin2", "macroman": "mac_roman", "sjis": "shift_jis", "tis620": "tis_620",
    "ucs2": "utf_16_be", "ujis": "euc_jp", "utf16": "utf_16_be", "utf16le": "utf_16_le", "utf32": "utf_32_be",
    "utf8mb3": "utf_8", "utf8mb4": "utf_8",
}  # fmt: skip


def charset_of(collation: int) -> str | None:
    """The character set's name; None when the number is not known."""
    if collation >= _MARIADB_UCA1400:
        index = collation - _MARIADB_UCA1400 >> 8
        return _UCA1400_CHARSETS[index] if index < len(_UCA1400_CHARSETS) else None
    return _CHARSETS.get(collation - _MARIADB_NO_PAD if collation >= _MARIADB_NO_PAD else collation)


def decode_label(label: bytes, charset: str) -> str | None:
    """An ENUM or SET label as text, or None when Python cannot read it."""
    try:
        return label.decode(_CODECS.get(charset, "ascii"))
    except UnicodeDecodeError:
        return None
