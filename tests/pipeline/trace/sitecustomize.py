"""Put on PYTHONPATH, this notes at exit which of the project's files a stage imported."""

import atexit
import json
import os
import sys
from pathlib import Path


def note() -> None:
    folder, here = Path(os.environ["SSLPIPE_TEST_TRACE"]), Path.cwd()
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(spec, "name", None) or ""
    if not name.startswith("stages."):
        return
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    inside = sorted(
        {Path(f).relative_to(here).as_posix() for f in files if f and Path(f).is_relative_to(here)}
    )
    folder.mkdir(exist_ok=True)
    stage = sys.argv[1] if name == "stages.evaluate" else name.removeprefix("stages.")
    path = folder / f"{stage}.json"
    before = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps(sorted({*before, *inside})))


if "SSLPIPE_TEST_TRACE" in os.environ:
    atexit.register(note)
