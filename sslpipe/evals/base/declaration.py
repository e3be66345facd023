"""What an evaluation says of itself: read by settings, the pipeline, report, comparison, MLflow and docs.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

#: Settings that several evaluations have.
Enabled = Annotated[bool, Field(description="whether this evaluation runs")]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda")]
Epochs = Annotated[int, Field(ge=1, description="passes over the images to learn from")]
Rates = Annotated[tuple[float, ...], Field(min_length=1, description="learning rates to choose from")]
CropScale = Annotated[tuple[float, float], Field(description="share of the image that training crops keep")]
Temperature = Annotated[float, Field(gt=0, description="T of a vote's weight exp(similarity / T)")]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number that comparisons show, of an evaluation that is not told by accuracy on the test images.

    Attributes:
        key: its dotted name among the evaluation's numbers.
        title: of the row.
        factor: what it is multiplied by to be shown: 100 for per cent.
    """

    key: str
    title: str
    factor: float = 100


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation: `EVALUATION` of the folder that has its name.

    Attributes:
        title: in tables and headings.
        about: what it measures, one sentence.
        order: its place in the report, rising.
        subject: what it is called within a sentence ("a linear probe"), where it has a row in the table of accuracies.
        rank: how much it asks of the encoder, the smaller the more: which row the headline tells.
        splits: of which it needs images.
        labels: whether it needs labels of them.
        repeats: whether it learns something, and so is repeated with `evaluate.seeds`.
        headline: the numbers that go into metrics/NAME.json, by dotted name, where `*` stands for one part of a name.
            Few: each is a column of `dvc exp show`.
        scores: numbers that comparisons show beside accuracies.
        elsewhere: from its Config to a digest of the data outside data/shards that it reads; None for none.
    """

    title: str
    about: str
    order: int
    subject: str | None = None
    rank: int | None = None
    splits: tuple[str, ...] = ("train", "test")
    labels: bool = True
    repeats: bool = True
    headline: tuple[str, ...] = ("top1", "random_init_top1")
    scores: tuple[Score, ...] = ()
    elsewhere: Callable[[Any], dict[str, Any] | None] = field(default=lambda config: None)
