"""Errors whose text is all a user needs: no traceback is printed for them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something a user can mend. The text is one sentence that says what to do."""


def explain_os_error(error: OSError, doing: str) -> UserError:
    """Turn a full, read-only or forbidden disk into a sentence: `doing`, as "writing models/x", and the remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full: free some space and run `dvc repro` again, nothing finished is lost",
        errno.EDQUOT: "the disk quota is used up: free some space and run `dvc repro` again, nothing finished is lost",
        errno.EROFS: "the disk is read-only: move the project to a folder that can be written",
        errno.EACCES: "permission denied: check the owner and mode of that path",
        errno.EPERM: "permission denied: check the owner and mode of that path",
    }
    remedy = remedies.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"{doing}: {remedy}")


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raise `explain_os_error` of any `OSError` that comes up within."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, doing) from error
