"""The part of the page on neighbours: what test images find among the training images, and how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sslpipe.report.config import Config
from sslpipe.report.parts import heads, section, thumbnails
from sslpipe.report.results import PREFIX, SERIES, integer, is_number
from sslpipe.report.run import Neighbours, Run


def nearest(run: Run, config: Config) -> str:
    """Test images, each with the training images whose features are most similar; also the worst rankings."""
    first = _Sheet(run, run.neighbours[: config.queries], config.neighbours)
    worst = _Sheet(run, run.worst, config.neighbours)
    if not first.rows:
        return ""
    note = (
        "<p>A test image, then the training images whose features are most similar to its own, "
        "with the cosine similarity.</p>"
    )
    if first.total:
        note += f"<p>{first.agree} of the {first.total} neighbours shown have the test image\u2019s class"
        note += "; the others are ringed in red.</p>" if first.agree < first.total else ".</p>"
    scores = _scores(run)
    body = f"{scores}<h3>Examples</h3>{first.html}" if scores else first.html
    if worst.rows:
        body += f"<h3>The worst rankings</h3>{worst.html}"
    return section("neighbours", "Nearest neighbours", note, body)


def _scores(run: Run) -> str:
    """Retrieval over all queries, as a table."""
    found = run.metrics.get("retrieval", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping):
        return ""
    names = {f"recall_{k}": f"Recall@{k}" for k in protocol.get("ks") or ()}
    names |= {"map": "Mean average precision", "r_precision": "R-precision"}
    shown = [series for series, prefix in PREFIX.items() if is_number(found.get(f"{prefix}map"))]
    rows = []
    for key, name in names.items():
        values: dict[str, float] = {
            series: value for series in shown if is_number(value := found.get(PREFIX[series] + key))
        }
        if len(values) < len(shown):
            continue
        best = max(values.values())
        cells = "".join(
            f'<td data-label="{SERIES[series]}">'
            + (f"<b>{100 * value:.1f}</b>" if value == best else f"{100 * value:.1f}")
            + "</td>"
            for series, value in values.items()
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    if not rows:
        return ""
    return (
        '<table class="results"><thead><tr><th scope="col">'
        f"Retrieval by {integer(protocol.get('queries', 0))} test images, %</th>{heads(shown)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


class _Sheet:
    """Queries with what they found, as pictures."""

    def __init__(self, run: Run, shown: Sequence[Neighbours], most: int) -> None:
        self.rows: list[str] = []
        self.agree = self.total = 0
        self.across = max((len(entry.neighbours[:most]) for entry in shown), default=0)
        self._fill(run, shown, most)

    @property
    def html(self) -> str:
        """The list."""
        return f'<ol class="nearest" style="--n:{self.across}">{"".join(self.rows)}</ol>'

    def _fill(self, run: Run, shown: Sequence[Neighbours], most: int) -> None:
        from sslpipe.report.pictures import data_uri

        queries = thumbnails(run, "test", [entry.query for entry in shown], 96)
        wanted = sorted({place for entry in shown for place in entry.neighbours[:most]})
        stored = thumbnails(run, "train", wanted, 96)
        if queries is None or stored is None:
            return
        place_of = {place: n for n, place in enumerate(wanted)}
        for entry, image, label in zip(shown, *queries, strict=True):
            cells = []
            for place, similarity in list(zip(entry.neighbours, entry.similarity, strict=False))[:most]:
                other, other_label = stored[0][place_of[place]], stored[1][place_of[place]]
                known = label >= 0 and other_label >= 0
                self.agree, self.total = (
                    self.agree + (known and label == other_label),
                    self.total + known,
                )
                cells.append(
                    _thumb(
                        data_uri(other, lossless=6000),
                        other.size,
                        run.class_name(other_label),
                        f"{similarity:.2f}".lstrip("0"),
                        wrong=known and label != other_label,
                    )
                )
            query = _thumb(
                data_uri(image, lossless=6000), image.size, run.class_name(label), "test", wrong=False
            )
            self.rows.append(
                f'<li><div class="query">{query}</div><div class="found">{"".join(cells)}</div></li>'
            )


def _thumb(uri: str, size: tuple[int, int], name: str | None, below: str, *, wrong: bool) -> str:
    said = f"class {name}" if name is not None else "image"
    caption = f"{escape(name)} " if name is not None else ""
    style = ' class="wrong"' if wrong else ""
    return (
        f'<figure{style}><img class="thumb" src="{uri}" width="{size[0]}" height="{size[1]}" '
        f'alt="{escape(said)}">'
        f"<figcaption><b>{caption}</b><span>{escape(below)}</span></figcaption></figure>"
    )
