"""What keeps MLflow from taking a run, in words, with what to do about it; each is told once a pipeline run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sslpipe.console.errors import UserError
from sslpipe.core import scratch

#: What the libraries below MLflow say of a store that may be back later, and the words that are told instead.
_AWAY = {
    r"connection refused": "connection refused",
    r"timed out|timeout (?:expired|exception)": "no answer in time",
    r"failed to resolve|name resolution|name or service not known": "its host name cannot be resolved",
    r"unreachable": "its network is unreachable",
    r"connection (?:aborted|reset)|(?:remote end|server) closed": "the connection broke off",
    r"database is locked": "another process holds the database",
}
_HTTP = re.compile(
    r"\b(?:error code|status code|too many) (?P<code>\d{3})|\b(?P<told>\d{3}) (?:Server|Client) Error"
)
_WHO = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_HTTP_REMEDIES = {
    401: f"it asks who you are: set {_WHO}",
    403: f"it forbids this: ask whoever runs it for the right to write runs, and check {_WHO}",
    404: "no MLflow is at this address: check `tracking.uri` or MLFLOW_TRACKING_URI",
}
_HTTP_AWAY = (408, 429)  # beside all from 500 on
_LONGEST = 2000  # characters: beyond every message with a remedy, short of a whole page of HTML


@dataclass(frozen=True)
class Trouble:
    """Why a store of MLflow does not take runs.

    Attributes:
        why: the reason, without secrets that an address may hold.
        passes: whether it may pass by itself, as with a server that is away. Anything else takes the user.
    """

    why: str
    passes: bool = False

    def sentence(self, what: str) -> str:
        """What does not work, why, and what to do."""
        if self.passes:
            return f"{what} ({self.why}); nothing is lost: run `sslpipe sync` when it is back"
        return f"{what}: {self.why.rstrip('.')}. Nothing is lost: put this right, then run `sslpipe sync`"


def trouble(error: BaseException, uri: str) -> Trouble:
    """What an error of MLflow, or of what is below it, means for the store at an address."""
    text = str(error)
    if isinstance(error, UserError):
        return Trouble(text)
    if isinstance(error, ModuleNotFoundError):
        return Trouble(
            f"the Python package `{error.name}`, which it needs, is not installed: install it here"
        )
    for pattern, words in _AWAY.items():
        if re.search(pattern, text, re.IGNORECASE):
            return Trouble(words, passes=True)
    if "timeout" in type(error).__name__.lower():
        return Trouble("no answer in time", passes=True)
    if found := _HTTP.search(text):
        return _of_http(int(found["code"] or found["told"]))
    return Trouble(_rephrased(text, uri) or _without_secrets(text, uri) or type(error).__name__)


def _of_http(code: int) -> Trouble:
    remedy = _HTTP_REMEDIES.get(code)
    passes = code >= 500 or code in _HTTP_AWAY
    return Trouble(f"HTTP {code}, {remedy}" if remedy else f"HTTP {code}", passes)


def _rephrased(text: str, uri: str) -> str | None:
    """Our words for what MLflow says in a way that leads astray."""
    if "unsupported URI" in text:  # MLflow speaks of its registry of models
        kinds = "a server (https://…) or a database (sqlite:///FILE, postgresql://…)"
        return f"runs cannot be kept at such an address: set `tracking.uri` or MLFLOW_TRACKING_URI to {kinds}"
    if "not in a valid JSON format" in text:  # followed by a whole page
        return "what answers there is not MLflow: check `tracking.uri` or MLFLOW_TRACKING_URI"
    return None


def _without_secrets(text: str, uri: str) -> str:
    """A message in one line, whole, as remedies stand at the end; without the SQL that SQLAlchemy adds."""
    line = " ".join(text.partition("\n[SQL:")[0].split())
    return re.sub(r"//[^/@\s]*@", "//", line.replace(uri, shown(uri)))[:_LONGEST]


def shown(uri: str) -> str:
    """A store's address without the user name and password it may hold."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else uri


def first_time(topic: str, key: str) -> bool:
    """Whether a pipeline run, which is one experiment in one process group, was not told of a topic before."""
    told, here = _told_path(topic), f"{key}:{os.getpgrp()}"
    if told.is_file() and told.read_text() == here:
        return False
    scratch.atomic_write(told, here, durable=False)
    return True


def tell_again(topic: str) -> None:
    """Let the next `first_time` of a topic be true."""
    _told_path(topic).unlink(missing_ok=True)


def _told_path(topic: str) -> Path:
    return scratch.folder("tracking") / f"told-{topic}"
