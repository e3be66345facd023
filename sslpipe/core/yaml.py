"""params.yaml and dvc.yaml read safely and as DVC reads them: YAML 1.2, no tags, no repeated keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sslpipe.console.errors import UserError, explain_os_error


def read(path: str | Path) -> dict[str, Any]:
    """A YAML file as a dictionary.

    Raises:
        UserError: the file is missing, unreadable, not YAML or not a mapping; the text names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        missing = f"{path} is missing: run this in the project's folder, or restore the file from git"
        raise UserError(missing) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file") from None
    except OSError as error:
        raise explain_os_error(error, f"reading {path}") from error
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold `key: value` sections such as `pretrain:`")
    return value
