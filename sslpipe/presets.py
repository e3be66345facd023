"""Presets: starts for params.yaml, found by name in presets/; `sslpipe preset NAME` writes one out whole.

presets/NAME.yaml holds only what differs from the defaults of the Configs, with a comment where a value has a source.
Its first line says what it is for. The key `base` names another preset that it starts from. What is written has the
layout and the comments of the preset `mnist5k`, which is params.yaml as it comes with the project.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode

from sslpipe.console.errors import UserError, explained
from sslpipe.core.config import flatten
from sslpipe.core.yaml import read
from sslpipe.settings import SECTIONS, SettingsError, defaults, kind_of, load, unknown_value

FOLDER = Path("presets")
LAYOUT = "mnist5k"
COLUMN = 31  # where comments stand
#: A line of the layout: a key, or one that is commented out (`# key: value`), with its value and comment.
LINE = re.compile(r"(?P<indent> *)(?P<off># )?(?P<key>\w+):(?: (?P<value>\S.*?))??(?: +# (?P<comment>.*))?")

Entries = dict[str, "Entry"]


@dataclass(frozen=True)
class Entry:
    """The value of a key as it is written, in a mapping that of each of its keys, and the comment beside it."""

    value: str | Entries
    comment: str = ""
    flow: bool = False  # a mapping in braces


def names(folder: Path = FOLDER) -> tuple[str, ...]:
    """The names of all presets, in alphabetical order.

    Raises:
        UserError: the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder} here ({Path.cwd()}): run this in a clone of the project, "
            "which is how it is used; the installed package holds no presets"
        )
    return tuple(sorted(file.stem for file in folder.glob("*.yaml")))


def listing(folder: Path = FOLDER) -> str:
    """All presets, a line each: the name, and what its first line says."""
    found = names(folder)
    width = max(map(len, found), default=0)
    lines = [f"{name:<{width}}  {_header(_text(name, folder))[0].removeprefix('# ')}" for name in found]
    return "\n".join([*lines, "", "`sslpipe preset NAME` writes one to params.yaml."])


def whole(name: str, folder: Path = FOLDER) -> str:
    """A params.yaml with the values of a preset, in the layout and with the comments of the layout's file."""
    entries: Entries = reduce(_over, [_entries(_text(each, folder)) for each in _chain(name, folder)])
    entries.pop("base", None)
    layout = _text(LAYOUT, folder)
    own, guide = _header(_text(name, folder)), _header(layout)
    guide = guide[guide.index("#") + 1 :]
    lines = own if name == LAYOUT else [*own, "#", *guide]
    for key, section in _sections(layout):
        lines += _section(key, section, entries.pop(key, None)) if key else section
    for key, entry in entries.items():
        lines += ["", *_lines(key, entry)]
    return "\n".join([*lines, ""])


def write(name: str, out: Path = Path("params.yaml"), *, force: bool = False) -> Iterator[str]:
    """Write a preset out; yields what was done and which settings differ from before, a line each.

    Raises:
        UserError: there is no such preset, or the file has changes that would be lost.
    """
    text = whole(name)
    if not force and _precious(out):
        raise UserError(
            f"{out} has changes that are not in git and would be lost: commit them (`git commit {out}`), "
            "write elsewhere by --out FILE, or give --force"
        )
    before = _resolved(out)
    with explained(f"writing {out}"):
        out.write_text(text, encoding="utf-8")
    yield f"wrote {out}: preset {name}"
    after = _resolved(out)
    assert after is not None
    yield from _differences(before, after)


def _chain(name: str, folder: Path) -> list[str]:
    """A preset and those it starts from, the first one first."""
    chain: list[str] = []
    current: str | None = name
    while current is not None:
        if current not in names(folder):
            where = f"base of the preset {chain[0]}" if chain else "preset"
            raise UserError(unknown_value(where, str(current), names(folder)))
        if current in chain:
            raise UserError(f"the presets {', '.join(chain)} start from each other: take one `base` out")
        chain.insert(0, current)
        current = read(folder / f"{current}.yaml").get("base")
    return chain


def _text(name: str, folder: Path) -> str:
    return (folder / f"{name}.yaml").read_text(encoding="utf-8")


def _header(text: str) -> list[str]:
    """The comment that a file begins with."""
    return list(takewhile(lambda line: line.startswith("#"), text.splitlines()))


def _entries(text: str) -> Entries:
    """A preset as written."""
    node = YAML(typ="safe", pure=True).compose(text)
    return _mapping(node, text, text.splitlines()) if isinstance(node, MappingNode) else {}


def _mapping(node: MappingNode, text: str, lines: list[str]) -> Entries:
    found: Entries = {}
    for key, value in node.value:
        block = isinstance(value, MappingNode) and not value.flow_style
        end = key.end_mark if block else value.end_mark
        comment = lines[end.line][end.column :].partition("# ")[2] if not node.flow_style else ""
        mapping = isinstance(value, MappingNode)
        written: str | Entries = text[value.start_mark.index : value.end_mark.index]
        if mapping:
            written = _mapping(value, text, lines)
        found[key.value] = Entry(written, comment, flow=mapping and not block)
    return found


def _over(base: Entries, over: Entries) -> Entries:
    """`base` with `over` on top; a value takes its comment with it. Another backbone has no options of the base's."""
    merged = dict(base)
    if "backbone" in over:
        merged.pop("backbone_options", None)
    for key, entry in over.items():
        below = merged.get(key)
        if below is not None and isinstance(below.value, dict) and isinstance(entry.value, dict):
            flow = below.flow and entry.flow
            entry = Entry(_over(below.value, entry.value), entry.comment or below.comment, flow)
        merged[key] = entry
    return merged


def _sections(layout: str) -> Iterator[tuple[str | None, list[str]]]:
    """The layout's sections, each with its lines, and without a key the lines between them; not the header."""
    lines = layout.splitlines()[len(_header(layout)) :]
    while lines:
        found = LINE.fullmatch(lines[0])
        key = found["key"] if found and (not found["off"] or found["key"] in SECTIONS) else None
        end = 1
        while key and end < len(lines) and lines[end].startswith("  "):
            end += 1
        yield key, lines[:end]
        lines = lines[end:]


def _section(key: str, lines: list[str], entry: Entry | None) -> list[str]:
    """The lines of one section of the layout, with a preset's values."""
    head = LINE.fullmatch(lines[0])
    assert head is not None
    if head["off"] or head["value"]:  # in one line
        if entry is None:
            return lines
        comment = entry.comment or head["comment"] or ""
        return [*_lines(key, replace(entry, comment=comment)), *lines[1:]]
    given = dict(entry.value) if entry and isinstance(entry.value, dict) else {}
    return [lines[0], *_keys(key, lines[1:], given)]


def _keys(section: str, lines: list[str], given: Entries) -> Iterator[str]:
    """The lines of a section's keys: of each the preset's value, or the default; then what the layout lacks."""
    own_words = False  # the preset's comment stands for that of the layout, whose further lines go, too
    for line in lines:
        found = LINE.fullmatch(line)
        if found is None:
            if not own_words:
                yield line
            continue
        key, comment = found["key"], found["comment"] or ""
        entry = given.pop(key, None)
        own_words = bool(entry and entry.comment and entry.comment != comment)
        if entry is not None:
            yield from _lines(key, replace(entry, comment=entry.comment or comment), indent=2)
        elif found["off"]:
            yield line
        else:
            yield from _lines(key, Entry(_default(section, key), comment), indent=2)
    for key, entry in given.items():
        yield from _lines(key, entry, indent=2)


def _default(section: str, key: str) -> str:
    kind = kind_of(section)
    assert kind is not None
    value = defaults(kind)[key]
    return value if isinstance(value, str) else json.dumps(value)


def _lines(key: str, entry: Entry, indent: int = 0) -> list[str]:
    """A key with its value and comment; below it the keys of a mapping that is not in braces."""
    below = entry.value if isinstance(entry.value, dict) and not entry.flow else {}
    line = f"{' ' * indent}{key}:" if below else f"{' ' * indent}{key}: {_inline(entry)}"
    pad = " " * (COLUMN - len(line)) if len(line) < COLUMN - 1 else "   "
    lines = [f"{line}{pad}# {entry.comment}" if entry.comment else line]
    for inner, value in below.items():
        lines += _lines(inner, value, indent + 2)
    return lines


def _inline(entry: Entry) -> str:
    if isinstance(entry.value, str):
        return entry.value
    return "{" + ", ".join(f"{key}: {_inline(below)}" for key, below in entry.value.items()) + "}"


def _precious(out: Path) -> bool:
    """Whether a file has what neither git nor a preset could bring back."""
    if not out.exists():
        return False
    command = ["git", "status", "--porcelain", "--ignored", "--", out.name]
    status = subprocess.run(command, cwd=out.parent, capture_output=True, text=True)
    if status.returncode == 0 and not status.stdout:
        return False
    text = out.read_text(encoding="utf-8", errors="replace")
    return all(text != whole(name) for name in names())


def _resolved(out: Path) -> dict[str, Any] | None:
    """All settings of a file by dotted key; None where it is missing or cannot be used."""
    try:
        settings = load(out)
    except SettingsError:
        return None
    chosen = {settings.pretrain.method: settings.method.model_dump(mode="json")}
    return flatten({"seed": settings.seed, **settings.sections(), "methods": chosen})


def _differences(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Iterator[str]:
    if before is None:
        yield "there was no valid file to compare it with"
        return
    differ = [key for key in after if key in before and before[key] != after[key]]
    width = max(map(len, differ), default=0)
    for key in differ:
        yield f"  {key:<{width}}  {json.dumps(before[key])} → {json.dumps(after[key])}"
    method = sorted({key.split(".")[1] for key in after.keys() - before.keys() if key.startswith("methods.")})
    for name in method:
        yield f"  methods.{name}: `sslpipe settings methods` shows the settings of the method"
    if not differ and not method:
        yield "  every setting is as it was"
