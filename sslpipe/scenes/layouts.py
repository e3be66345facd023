"""What lists and annotates images in a folder laid out as Pascal VOC's or COCO's; imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core.scratch import digest

COCO = "annotations/instances_*.json"
VOC = ("JPEGImages", "Annotations", "SegmentationClass")


def layout(root: str) -> str:
    """`coco` or `voc`.

    Raises:
        UserError: neither.
    """
    folder = Path(root).expanduser()
    if next(folder.glob(COCO), None):
        return "coco"
    if (folder / VOC[0]).is_dir():
        return "voc"
    raise UserError(
        f"scenes.root {root} has neither {COCO} (COCO) nor {VOC[0]} (VOC): set it to such a folder, or to null for "
        "composed scenes"
    )


def elsewhere(config: Any) -> dict[str, Any] | None:
    """{"folder", "layout", "digest"} of the folder that an evaluation with a setting `scenes` reads; None for none.

    The digest is over the names, sizes and times of lists, annotations and folders; no file is opened.

    Raises:
        UserError: the folder is laid out as neither.
    """
    root = config.scenes.root
    if not root:
        return None  # scenes are composed
    folder, kind = Path(root).expanduser(), layout(root)
    files = [*folder.glob(COCO), *folder.glob("ImageSets/*/*.txt")]
    seen = sorted([*files, *(folder / name for name in VOC if (folder / name).is_dir())])
    status = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in seen]
    return {"folder": root, "layout": kind, "digest": digest(status)}
