"""The part of the page on transfer to dense tasks: scores beside random weights, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sslpipe.report.parts import heads, picture, section
from sslpipe.report.results import SERIES, integer, is_number, points
from sslpipe.report.run import Run

_SHOWN = ("encoder", "random_init")


def segmentation(run: Run) -> str:
    """Scores of the masks, by class, and scenes with their masks."""
    found = run.metrics.get("segment", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping) or not is_number(found.get("miou")):
        return ""
    rows = (("Linear layer", "miou"), ("k-NN of patches", "knn_miou"))
    note = (
        f"<p>{integer(protocol.get('test_scenes', 0))} scenes composed of test images, told apart by what "
        f"{integer(protocol.get('train_scenes', 0))} scenes of training images teach on frozen patch features. Mean "
        "intersection over union, in percent, over the classes and the background.</p>"
    )
    sheet = picture(
        run, "plots/segment/scenes.png", "Scenes, their true masks, and those of the linear layer, row by row"
    )
    body = _table(found, rows, "mIoU, %") + _by_class(run, found.get("iou"))
    return section(
        "segmentation",
        "Segmentation",
        note,
        body + (f"<h3>Scene, truth, prediction</h3>{sheet}" if sheet else ""),
    )


def detection(run: Run) -> str:
    """Scores of the boxes, and scenes with theirs."""
    found = run.metrics.get("detect", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping) or not is_number(found.get("ap50")):
        return ""
    rows = (("AP at an overlap of .5", "ap50"), ("AP over .5 to .95", "map"))
    learns = "which stays as it is" if protocol.get("freeze") else "which learns, too"
    note = (
        f"<p>Faster R-CNN on the encoder, {learns}, trained on {integer(protocol.get('train_scenes', 0))} scenes "
        f"composed of training images and tested on {integer(protocol.get('test_scenes', 0))} of test images. Average "
        "precision as COCO has it, in percent.</p>"
    )
    sheet = picture(
        run, "plots/detect/scenes.png", "Scenes with their true boxes, and below with those found"
    )
    body = _table(found, rows, "Average precision, %")
    return section("detection", "Detection", note, body + (f"<h3>Truth, found</h3>{sheet}" if sheet else ""))


def _table(found: Mapping[str, object], rows: Sequence[tuple[str, str]], title: str) -> str:
    body = []
    for name, key in rows:
        own, random = found.get(key), found.get(f"random_init_{key}")
        if is_number(own) and is_number(random):
            cells = "".join(
                f'<td data-label="{SERIES[series]}">{100 * value:.1f}</td>'
                for series, value in zip(_SHOWN, (own, random), strict=True)
            )
            style = "gain" if own >= random else "gain loss"
            gain = f'<td class="{style}" data-label="Gain">{points(own - random)}</td>'
            body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}{gain}</tr>')
    return (
        f'<table class="results"><thead><tr><th scope="col">{title}</th>{heads(_SHOWN)}'
        f'<th scope="col">Gain</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _by_class(run: Run, scores: object) -> str:
    """A bar for each class."""
    if not isinstance(scores, list):
        return ""
    names = ["background", *(run.class_name(number) or "" for number in range(len(scores) - 1))]
    items = "".join(
        f'<li><span title="{escape(name)}">{escape(name)}</span><div class="bars">'
        f'<i style="width:{97 * score:.1f}%"></i></div><span>{100 * score:.1f}</span></li>'
        for name, score in zip(names[:40], scores, strict=False)
        if is_number(score)
    )
    return f'<details><summary>By class</summary><ol class="counts">{items}</ol></details>' if items else ""
