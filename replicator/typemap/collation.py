"""Character sets and collations of a source, and what stands for them at a MySQL target (pure).

A collation that the target lacks is replaced by one that never calls two source keys equal (SEMANTICS §8): equality at
the target must be as fine as at the source, trailing spaces included, or rows that the source tells apart would meet in
one unique key.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# MySQL 9.7's, by character set; a test compares them with the server's own.
_PAIRS: Final = {
    "armscii8": "bin general_ci",
    "ascii": "bin general_ci",
    "big5": "bin chinese_ci",
    "cp1250": "bin croatian_ci czech_cs general_ci polish_ci",
    "cp1251": "bin bulgarian_ci general_ci general_cs ukrainian_ci",
    "cp1256": "bin general_ci",
    "cp1257": "bin general_ci lithuanian_ci",
    "cp850": "bin general_ci",
    "cp852": "bin general_ci",
    "cp866": "bin general_ci",
    "cp932": "bin japanese_ci",
    "dec8": "bin swedish_ci",
    "eucjpms": "bin japanese_ci",
    "euckr": "bin korean_ci",
    "gb18030": "bin chinese_ci unicode_520_ci",
    "gb2312": "bin chinese_ci",
    "gbk": "bin chinese_ci",
    "geostd8": "bin general_ci",
    "greek": "bin general_ci",
    "hebrew": "bin general_ci",
    "hp8": "bin english_ci",
    "keybcs2": "bin general_ci",
    "koi8r": "bin general_ci",
    "koi8u": "bin general_ci",
    "latin1": "bin danish_ci general_ci general_cs german1_ci german2_ci spanish_ci swedish_ci",
    "latin2": "bin croatian_ci czech_cs general_ci hungarian_ci",
    "latin5": "bin turkish_ci",
    "latin7": "bin estonian_cs general_ci general_cs",
    "macce": "bin general_ci",
    "macroman": "bin general_ci",
    "sjis": "bin japanese_ci",
    "swe7": "bin swedish_ci",
    "tis620": "bin thai_ci",
    "ujis": "bin japanese_ci",
    "utf16le": "bin general_ci",
}
# These five share their language collations.
_UNICODE: Final = ("ucs2", "utf16", "utf32", "utf8mb3", "utf8mb4")
_LANGUAGES: Final = (
    "bin general_ci unicode_ci unicode_520_ci croatian_ci czech_ci danish_ci esperanto_ci estonian_ci german2_ci "
    "hungarian_ci icelandic_ci latvian_ci lithuanian_ci persian_ci polish_ci roman_ci romanian_ci sinhala_ci "
    "slovak_ci slovenian_ci spanish2_ci spanish_ci swedish_ci turkish_ci vietnamese_ci"
)
_MYSQL500: Final = ("ucs2_general_mysql500_ci", "utf8mb3_general_mysql500_ci", "utf8mb3_tolower_ci")
# Unicode 9 and up, NO PAD; only utf8mb4 has them.
_LANGUAGES_0900: Final = (
    "bg bs cs da de_pb eo es es_trad et gl hr hu is la lt lv mn_cyrl nb nn pl ro ru sk sl sr_latn sv tr vi"
)
_OTHERS_0900: Final = "0900_ai_ci 0900_as_ci 0900_as_cs 0900_bin ja_0900_as_cs ja_0900_as_cs_ks zh_0900_as_cs"


def _known() -> frozenset[str]:
    pairs = {f"{charset}_{name}" for charset, names in _PAIRS.items() for name in names.split()}
    unicode = {f"{charset}_{name}" for charset in _UNICODE for name in _LANGUAGES.split()}
    new = {
        f"utf8mb4_{language}_0900_{kind}"
        for language in _LANGUAGES_0900.split()
        for kind in ("ai_ci", "as_cs")
    }
    others = {f"utf8mb4_{name}" for name in _OTHERS_0900.split()}
    return frozenset({"binary", *_MYSQL500} | pairs | unicode | new | others)


COLLATIONS: Final = _known()
"""Every collation of MySQL 9.7."""


class Choice(NamedTuple):
    """What a text column gets at the target; ``note`` says why when that is not what the source has."""

    charset: str
    collation: str
    note: str = ""


def canonical_name(name: str) -> str:
    """The name that MySQL 9.7 prints: ``utf8`` and ``utf8_…`` of older servers are ``utf8mb3`` and ``utf8mb3_…``."""
    if name == "utf8" or name.startswith("utf8_"):
        return "utf8mb3" + name[4:]
    return name


def charset_of(collation: str) -> str:
    return canonical_name(collation).partition("_")[0]


def is_no_pad(collation: str) -> bool:
    """Whether trailing spaces count in comparisons (MySQL's 0900 collations, MariaDB's ``_nopad_``)."""
    return "_0900_" in collation or "_nopad_" in collation or collation == "binary"


def choose_collation(collation: str, *, same_product: bool) -> Choice:
    """The target's character set and collation for a source column's ``collation``.

    ``same_product`` is True for a MySQL source: its collations keep their names, whatever the version.
    """
    name = canonical_name(collation)
    charset = charset_of(name)
    if same_product or (name in COLLATIONS and not _is_namesake(name)):
        return Choice(charset, name)
    if charset == "utf8mb4":
        finest = "utf8mb4_0900_bin"
    elif is_no_pad(name):
        # No other character set has a NO PAD collation.
        charset, finest = "utf8mb4", "utf8mb4_0900_bin"
    else:
        # It pads, as the source does, and else tells every two strings apart.
        finest = f"{charset}_bin"
    return Choice(charset, finest, f"collation {collation} does not exist in MySQL: {finest} instead")


def _is_namesake(name: str) -> bool:
    """MariaDB's croatian_ci is not MySQL's, which MariaDB calls croatian_mysql561_ci."""
    return name.endswith("_croatian_ci") and charset_of(name) in _UNICODE


def is_as_fine(target: str, source: str) -> bool:
    """Whether ``target`` tells apart whatever ``source`` (a target name, as chosen above) tells apart.

    False where that is not known.
    """
    if target in (source, "binary"):
        return True
    if is_no_pad(source) and not is_no_pad(target):
        return False
    if target.endswith("_bin"):
        return True
    family, _, strength = target.rpartition("_0900_")
    source_family, _, source_strength = source.rpartition("_0900_")
    order = ("ai_ci", "as_ci", "as_cs")
    if family != source_family or strength not in order or source_strength not in order:
        return False
    return order.index(strength) >= order.index(source_strength)


_EVERYTHING: Final = frozenset({"utf8mb4", "utf16", "utf16le", "utf32", "gb18030"})
_PLANE_0: Final = frozenset({"utf8mb3", "ucs2"})


def can_hold(target: str, source: str) -> bool:
    """Whether every text in character set ``source`` has the same characters in ``target``; False where unsure."""
    if target == source or target in _EVERYTHING:
        return True
    if target in _PLANE_0:
        return source not in _EVERYTHING
    return source == "ascii" and target not in ("swe7", "sjis", "big5", "gbk")
