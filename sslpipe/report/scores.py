"""Tables of scores that are no rows of the result table: of other sets and other tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sslpipe.report.series import PREFIX
from sslpipe.report.words import is_number


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A row: fractions by series, None where there is no number, and what is gained over random weights."""

    name: str
    values: Mapping[str, float | None]
    gain: float


def beside_baselines(
    found: Mapping[str, Any], rows: Iterable[tuple[str, str]], columns: Sequence[str]
) -> list[Scores]:
    """The encoder's scores beside the baselines'; rows without the encoder's or random weights' are left out.

    Args:
        found: fractions by key, with the prefix of a baseline (`series.PREFIX`) where they are one's.
        rows: names and keys.
        columns: of `series.SERIES`, the encoder and random weights among them.
    """
    shown = []
    for name, key in rows:
        values = {series: found.get(PREFIX[series] + key) for series in columns}
        numbers = {series: value if is_number(value) else None for series, value in values.items()}
        own, random = numbers["encoder"], numbers["random_init"]
        if own is not None and random is not None:
            shown.append(Scores(name=name, values=numbers, gain=own - random))
    return shown
