"""What every section of the page is made of: the section itself, figures, legends, words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from sslpipe.report.results import NARROW_SPACE, PREFIX, SERIES, integer, is_number, points
from sslpipe.report.run import Run

WIDE, NARROW = 820, 350  # CSS pixels a figure is drawn for: a desktop's column, a phone's
MARKS = {"encoder": "encoder", "random_init": "random", "raw_pixel": "pixels"}
_METHODS = {
    "simclr": "SimCLR", "byol": "BYOL", "mae": "MAE", "moco": "MoCo", "mocov3": "MoCo v3", "swav": "SwAV",
    "simsiam": "SimSiam", "beit": "BEiT", "simmim": "SimMIM", "dino": "DINO", "ijepa": "I-JEPA",
    "vicreg": "VICReg", "barlow_twins": "Barlow Twins", "patch_contrast": "Patch contrast",
}  # fmt: skip


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page, which loads nothing.

    Args:
        title: plain text.
        body: HTML.
        style: CSS beside the page's own.
        script: JavaScript; without any, none is allowed.
    """
    own = files("sslpipe.report").joinpath("page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    policy += "; script-src 'unsafe-inline'" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>\n<style>{own}{style}</style></head>\n"
        f"<body>{body}" + (f"\n<script>{script}</script>" if script else "") + "</body></html>\n"
    )


def heads(series: Sequence[str]) -> str:
    """The heads of a table's columns, one a series."""
    return "".join(
        f'<th scope="col"><i class="mark {MARKS[name]}"></i>{SERIES[name]}</th>' for name in series
    )


def scores(
    found: Mapping[str, object],
    rows: Sequence[tuple[str, str]],
    title: str,
    series: Sequence[str] = ("encoder", "random_init"),
) -> str:
    """A table of scores in percent, the encoder's beside those of baselines, and what it gains over random weights.

    Args:
        found: fractions by key, with the baseline's prefix (`results.PREFIX`) where they are a baseline's.
        rows: names and keys; those without the encoder's or random weights' number are left out.
        title: what is measured.
        series: of `results.SERIES`.
    """
    body = []
    for name, key in rows:
        values = {each: found.get(f"{PREFIX[each]}{key}") for each in series}
        own, random = values["encoder"], values["random_init"]
        if is_number(own) and is_number(random):
            cells = "".join(
                f'<td data-label="{SERIES[each]}">{100 * value:.1f}</td>'
                if is_number(value)
                else f'<td data-label="{SERIES[each]}">\u2013</td>'
                for each, value in values.items()
            )
            style = "gain" if own >= random else "gain loss"
            gain = f'<td class="{style}" data-label="Gain">{points(own - random)}</td>'
            body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}{gain}</tr>')
    return (
        f'<table class="results"><thead><tr><th scope="col">{title}</th>{heads(series)}'
        f'<th scope="col">Gain</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def section(name: str, title: str, note: str, body: str) -> str:
    """A part of the page; `note` and `body` are HTML."""
    return (
        f'<section id="{name}"><div class="aside"><h2>{escape(title)}</h2>'
        f'<div class="note">{note}</div></div><div class="body">{body}</div></section>'
    )


def both(draw: Callable[[int], str]) -> str:
    """A figure drawn for a desktop and for a phone; the style sheet shows one."""
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def legend(series: Sequence[str]) -> str:
    """What the marks of the series mean."""
    items = "".join(f'<li><i class="mark {MARKS[name]}"></i>{SERIES[name]}</li>' for name in series)
    return f'<ul class="legend">{items}</ul>'


def picture(run: Run, path: str, said: str) -> str:
    """A picture file of the run inside the page; nothing where there is none."""
    from sslpipe.report import pictures

    if not (run.directory / path).is_file():
        return ""
    try:
        uri, width, height = pictures.picture(run.directory / path)
    except (OSError, ValueError, SyntaxError):  # Pillow raises SyntaxError for a broken PNG
        run.problems.append(f"{path} could not be read as a picture")
        return ""
    return f'<img class="sheet" src="{uri}" width="{width}" height="{height}" alt="{escape(said)}">'


def thumbnails(run: Run, split: str, places: list[int], side: int) -> tuple[list[Any], list[int]] | None:
    """Images of a split and their labels; None where the shards are missing or cannot be read."""
    from sslpipe.console.errors import UserError

    if not places or not run.manifest:
        return None
    try:
        return run.thumbnails.get(split, places, side)
    except (UserError, OSError, IndexError, ValueError) as error:
        problem = f"images of the {split} split could not be read ({error})"
        if problem not in run.problems:
            run.problems.append(problem)
        return None


def method_name(run: Run) -> str:
    """The method as its paper writes it."""
    name = str(param(run, "pretrain.method") or "")
    return _METHODS.get(name, name.replace("_", " ").capitalize())


def param(run: Run, key: str) -> Any:
    """A setting of the run, None where it is not known."""
    return run.params.get(key)


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


def definitions(values: Mapping[str, Any]) -> str:
    """Names and values in columns."""
    items = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(text(value))}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="settings">{items}</dl>'


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values in one line of text."""
    return ", ".join(
        f"{escape(name.replace('_', ' '))} <b>{escape(text(value))}</b>"
        for name, value in flat(values).items()
    )


def text(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(text(part) for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
