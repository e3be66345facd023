"""Numbers and settings as text. None of it is HTML."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from sslpipe.core.config import flatten

NARROW_SPACE = "\u202f"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """A value read from JSON that should be a mapping; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def hundredths(fraction: float) -> str:
    """A fraction in percent without the sign, 0.874 → "87.4"."""
    return f"{100 * fraction:.1f}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage, 0.874 → "87.4 %" with a narrow no-break space."""
    return f"{100 * fraction:.{digits}f}{NARROW_SPACE}%"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, signed, with a true minus."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\u2212")


def integer(value: float) -> str:
    """An integer with its thousands apart."""
    return f"{round(value):,}".replace(",", NARROW_SPACE)


def short(value: float) -> str:
    """A number to three digits, with a true minus."""
    return f"{value:.3g}".replace("-", "\u2212")


def px(value: float) -> str:
    """A place in a figure, to a tenth of a pixel."""
    return f"{value:.1f}"


def watt_hours(value: float) -> str:
    """Energy, to two digits or three: 0.42 Wh, 37 Wh, 1.3 kWh."""
    if value < 999.5:
        return f"{value:.2f}{NARROW_SPACE}Wh" if value < 1 else f"{value:.3g}{NARROW_SPACE}Wh"
    return f"{value / 1000:.3g}{NARROW_SPACE}kWh"


def duration(seconds: float) -> str:
    """Seconds in words: "8.2 s", "1 min 52 s", "3 h 04 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f}{NARROW_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW_SPACE}min {rest:02d}{NARROW_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{integer(hours)}{NARROW_SPACE}h {minutes:02d}{NARROW_SPACE}min"


def setting(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(setting(part) for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, names joined by dots; empty ones are left out."""
    return {name: value for name, value in flatten(values).items() if not isinstance(value, Mapping)}


def natural(name: str) -> tuple[int, int, str]:
    """A key to sort by: numbers in their own order, before words."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def isolated(name: str) -> str:
    """A name that may stand in a sentence of plain text: one written from right to left does not turn the rest."""
    if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name):
        return f"\u2068{name}\u2069"
    return name


def aligned(rows: Sequence[Sequence[str]], justify: Callable[[str, int], str]) -> list[str]:
    """The lines of a table, the first one underlined; `justify` (`str.rjust`, say) is for all columns but the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join([row[0].ljust(widths[0]), *map(justify, row[1:], widths[1:])]) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
