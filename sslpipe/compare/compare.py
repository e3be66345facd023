"""Several runs side by side: scores with the differences and their errors, settings that differ, cost, lineage."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslpipe import evals
from sslpipe.compare.difference import Difference, paired, together, unpaired
from sslpipe.compare.revisions import locate
from sslpipe.console.errors import UserError
from sslpipe.evals.base.declaration import Score
from sslpipe.report.results import Row, rows
from sslpipe.report.run import Run, read
from sslpipe.report.run import table as rows_of
from sslpipe.report.words import NARROW_SPACE, aligned, flat, hundredths, is_number, points

MOST = 8  # runs beside each other that can still be told apart
Key = tuple[str, int | None]  # a stage, and how many labels
Params = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """A run under the name it was asked for."""

    name: str
    run: Run
    rows: Mapping[Key, Row]

    def digest(self, stage: str, what: str) -> str | None:
        """A digest that a stage's number rests on: of `data`, `encoder` or `settings`."""
        return (self.run.protocol(stage).get("digests") or {}).get(what)

    def times(self, stage: str, what: str) -> int:
        """How many `seeds` or `draws` a stage's number is the mean of."""
        count = self.run.protocol(stage).get(what, 1)
        return count if isinstance(count, int) else 1

    @functools.cached_property
    def told(self) -> Mapping[str, tuple[list[str], np.ndarray]]:
        """By stage, the test images' classes in order and whether each was told, where that was written down."""
        stages = {stage for stage, _ in self.rows}
        found = {stage: self.run.load(f"plots/{stage}/confusion.csv", _right, None) for stage in stages}
        return {stage: each for stage, each in found.items() if each is not None}


def load(names: Sequence[str], root: Path, params: Params) -> list[Compared]:
    """Read the runs of a project by what they are called: see `revisions.locate`.

    Args:
        names: two to `MOST`.
        root: the project.
        params: reads a params.yaml as resolved settings, flat.

    Raises:
        UserError: too few or too many names, or one that is not a run with results.
    """
    if not 2 <= len(names) <= MOST:
        raise UserError(f"compare takes 2 to {MOST} runs, not {len(names)}")
    if len(set(names)) < len(names):
        raise UserError("the same run is named twice")
    short = [_shown(name) for name in names]
    shown = short if len(set(short)) == len(short) else names
    return [_load(said, locate(name, root), params) for said, name in zip(shown, names, strict=True)]


def _shown(name: str) -> str:
    """What a run is called: a folder by its last name."""
    if name in (".", "workspace"):
        return "workspace"
    return Path(name).name if Path(name).is_dir() else name


def _load(name: str, folder: Path, params: Params) -> Compared:
    file = folder / "params.yaml"
    run = read(folder, params(file) if file.is_file() else {})
    found = {(row.stage, row.labels): row for row in rows(run.metrics) if row.skipped is None}
    if not found:
        raise UserError(f"{name} has no evaluation in {folder / 'runs'}: run `dvc repro` there first")
    return Compared(name, run, found)


def keys(runs: Sequence[Compared]) -> list[Key]:
    """The evaluations that any run has, in the order of the first one."""
    return list(dict.fromkeys(key for each in runs for key in each.rows))


def difference(first: Compared, second: Compared, key: Key) -> Difference | None:
    """How much better the second run's encoder does in an evaluation; None where one has no number."""
    rows = [each.rows.get(key) for each in (first, second)]
    if any(row is None or "encoder" not in row.top1 for row in rows):
        return None
    stage, labels = key
    once = all(each.times(stage, "seeds") == 1 for each in (first, second))
    if labels is None and once and _same_images(first, second, stage):
        one, other = first.told.get(stage), second.told.get(stage)
        if one is not None and other is not None and one[0] == other[0]:
            return paired(one[1], other[1])
    return unpaired(
        [row.top1["encoder"] for row in rows if row],
        [each.run.count("test") for each in (first, second)],
        [row.std.get("encoder") for row in rows if row],
        first.times(stage, "seeds") * (1 if labels is None else first.times(stage, "draws")),
    )


def differences(runs: Sequence[Compared]) -> dict[tuple[int, Key], Difference]:
    """What each run but the first differs from it by, by its place and the evaluation, with chances of all together."""
    found = {
        (number, key): each
        for number in range(1, len(runs))
        for key in keys(runs)
        if (each := difference(runs[0], runs[number], key)) is not None
    }
    return dict(zip(found, together(list(found.values())), strict=True))


def _same_images(first: Compared, second: Compared, stage: str) -> bool:
    """Whether a stage tested both on the same images: of the same shards, or of shards made of the same images."""
    digests = [each.digest(stage, "data") for each in (first, second)]
    if None in digests:
        return False
    own = digests == [each.run.manifest.get("digest") for each in (first, second)]
    return digests[0] == digests[1] or (own and _made_of_the_same(first, second))


def _made_of_the_same(first: Compared, second: Compared) -> bool:
    """Whether the shards of two runs hold the same images, in whatever files and however small.

    MLflow knows the shards' digest alone.
    """
    one, other = first.run.manifest, second.run.manifest
    if one.get("digest") == other.get("digest"):
        return True
    sources = [(manifest.get("source") or {}).get("digest") for manifest in (one, other)]
    counts = [(each.run.count("train"), each.run.count("test")) for each in (first, second)]
    return None not in sources and sources[0] == sources[1] and counts[0] == counts[1]


def others(runs: Sequence[Compared]) -> dict[str, list[tuple[float, float | None] | None]]:
    """Numbers of evaluations that are no top-1 accuracy on the test images.

    Returns:
        By title, each run's number and its deviation over seeds, None for a run without; only what two runs have.
    """
    cells = {
        score.title: [_cell(flat(each.run.metrics.get(name, {})), score) for each in runs]
        for name, declared in evals.declarations().items()
        for score in declared.scores
    }
    return {title: found for title, found in cells.items() if sum(cell is not None for cell in found) > 1}


def _cell(numbers: Mapping[str, Any], score: Score) -> tuple[float, float | None] | None:
    value, spread = numbers.get(score.key), numbers.get(f"{score.key}_std")
    if not is_number(value):
        return None
    return score.factor * value, score.factor * spread if is_number(spread) else None


def _right(path: Path) -> tuple[list[str], np.ndarray] | None:
    """The classes of the test images, in order, and whether each was told; None where there are no images."""
    pairs = [(row["actual"], row["predicted"]) for row in rows_of(path)]
    right = np.array([actual == predicted for actual, predicted in pairs])
    return ([actual for actual, _ in pairs], right) if pairs else None


def settings_that_differ(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """Settings by dotted name, one value a run, None where it has none; without what is the same everywhere."""
    names = sorted({name for each in runs for name in each.run.params})
    values = {name: [each.run.params.get(name) for each in runs] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def warnings(runs: Sequence[Compared]) -> list[str]:
    """What makes the comparison less than fair."""
    said = []
    if not all(_made_of_the_same(runs[0], each) for each in runs[1:]):
        said.append("The runs were not evaluated on the same images: scores are of different tests.")
    for stage in dict.fromkeys(stage for stage, _ in keys(runs)):
        if len({each.digest(stage, "settings") for each in runs if stage in each.run.metrics}) > 1:
            title = evals.declarations()[stage].title
            said.append(f"{title} did not follow the same protocol in all of them.")
    seeds = set(settings_that_differ(runs))
    if seeds == {"seed"}:
        said.append("They differ in the seed alone: what they differ by is the noise of any comparison.")
    elif len({each.run.params.get("seed") for each in runs}) == 1:
        said.append(
            "Each is one pretraining with one seed. The errors say what other test images would change, not what "
            "another seed would."
        )
    return said


def table(runs: Sequence[Compared]) -> str:
    """The comparison as plain text."""
    lines, found = [["top-1 on test, %", *(each.name for each in runs)]], differences(runs)
    for key in keys(runs):
        title = next(each.rows[key] for each in runs if key in each.rows)
        cells = [f"{title.title}, {title.condition}".replace(NARROW_SPACE, " ")]
        for number, each in enumerate(runs):
            row = each.rows.get(key)
            score = hundredths(row.top1["encoder"]) if row and "encoder" in row.top1 else "-"
            beside = found.get((number, key))
            cells.append(score + ("" if beside is None else f"  {_said(beside)}"))
        lines.append(cells)
    for name, numbers in others(runs).items():
        lines.append([name, *("-" if each is None else _number(*each) for each in numbers)])
    note = (
        f"differences to {runs[0].name} with 95 % intervals; ~ where chance gives one as large among all "
        f"{len(found)} in more than one of twenty such tables"
    )
    return "\n".join(line.rstrip() for line in [*aligned(lines, str.ljust), "", note, *warnings(runs)])


def _number(value: float, spread: float | None) -> str:
    return f"{value:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def _said(found: Difference) -> str:
    mark = "" if found.measurable else "~"
    return f"{mark}{points(found.value)} {interval(found)}".replace("\u2212", "-").replace(NARROW_SPACE, " ")


def interval(found: Difference) -> str:
    """The 95 % interval in points, empty where nothing tells: (−0.4 to +1.2)."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return ""
    return f"({points(found.low)} to {points(found.high)})"
