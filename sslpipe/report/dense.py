"""The part of the page on transfer: to another data set, and to dense tasks with examples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from html import escape

from sslpipe.report.parts import picture, scores, section
from sslpipe.report.results import PREFIX, SERIES, integer, is_number
from sslpipe.report.run import Run


def another_set(run: Run) -> str:
    """Scores on another labelled set."""
    found = run.metrics.get("transfer", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping) or not is_number(found.get("linear_top1")):
        return ""
    few = found.get("few_labels")
    few = few if isinstance(few, Mapping) else {}
    table = dict(found)
    for (count, each), prefix in itertools.product(few.items(), PREFIX.values()):
        table[f"{prefix}few_{count}"] = each.get(f"{prefix}top1")
    rows = [
        ("Linear probe, all labels", "linear_top1"),
        *((f"Linear probe, {integer(int(count))} labels", f"few_{count}") for count in few),
        ("k-NN, all labels", "knn_top1"),
    ]
    name, classes = escape(str(protocol.get("source", "Another set"))), protocol.get("classes", "?")
    note = (
        f"<p>{name}: {integer(protocol.get('train_images', 0))} images to learn from, "
        f"{integer(protocol.get('test_images', 0))} to be tested on, {classes} classes; "
        "frozen features, nothing pretrained on it.</p>"
    )
    return section(
        "transfer", "On another data set", note, scores(table, rows, "Top-1 accuracy, %", tuple(SERIES))
    )


def segmentation(run: Run) -> str:
    """Scores of the masks, by class, and scenes with their masks."""
    found = run.metrics.get("segment", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping) or not is_number(found.get("miou")):
        return ""
    rows = (
        ("Linear layer", "miou"),
        ("k-NN of patches", "knn_miou"),
        ("Encoder and layer fine-tuned", "finetuned_miou"),
    )
    note = (
        f"<p>{integer(protocol.get('test_scenes', 0))} scenes composed of test images, told apart by what "
        f"{integer(protocol.get('train_scenes', 0))} scenes of training images teach on frozen patch features. Mean "
        "intersection over union, in percent, over the classes and the background.</p>"
    )
    sheet = picture(
        run, "plots/segment/scenes.png", "Scenes, their true masks, and those of the linear layer, row by row"
    )
    body = scores(found, rows, "mIoU, %") + _by_class(run, found.get("iou"))
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
    body = scores(found, rows, "Average precision, %")
    return section("detection", "Detection", note, body + (f"<h3>Truth, found</h3>{sheet}" if sheet else ""))


def _by_class(run: Run, found: object) -> str:
    """A bar for each class."""
    if not isinstance(found, list):
        return ""
    said = run.metrics["segment"]["protocol"].get("class_names")
    said = said if isinstance(said, list) else [run.class_name(number) for number in range(len(found) - 1)]
    names = ["background", *map(str, said)]
    items = "".join(
        f'<li><span title="{escape(name)}">{escape(name)}</span><div class="bars">'
        f'<i style="width:{97 * score:.1f}%"></i></div><span>{100 * score:.1f}</span></li>'
        for name, score in zip(names[:40], found, strict=False)
        if is_number(score)
    )
    return f'<details><summary>By class</summary><ol class="counts">{items}</ol></details>' if items else ""
