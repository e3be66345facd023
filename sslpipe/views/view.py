"""One view of each image of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sslpipe.views.recipe import Colour
from sslpipe.views.table import Table


@dataclass(frozen=True, eq=False)
class View:
    """One view of each image of a batch.

    Attributes:
        pixels: [N, 3, S, S], normalised: `pixels * std + mean` is in [0, 1]; float32 unless the engine was told.
        index: int64 [N], the images' places in the split.
        masks: bool, true where hidden, or None. [N, P] with the patches row by row; [N, 1 + T, P] for
            multi-block masks: first what the context does not show, then each of the T targets.
        to_canvas: float32 [N, 2, 3]: pixel (x, y) of the view lies at `to_canvas @ (x, y, 1)` on its canvas.
            Whole numbers are centres of pixels on both sides, x to the right and y down.
        mean, std: of the normalisation.
        name: of the ViewSpec.
        table: what was drawn: crop box, flips, turns, colours; N rows on the host.
        hidden: the most patches that `masks` [N, P] hide of any image: known to the host, which need not wait for the
            device to choose a shape by it.
    """

    pixels: torch.Tensor
    index: torch.Tensor
    masks: torch.Tensor | None
    to_canvas: torch.Tensor
    mean: Colour
    std: Colour
    name: str
    table: Table | None = None
    hidden: int | None = None

    def __post_init__(self) -> None:
        """Count what is hidden where whoever made the view did not say."""
        if self.masks is not None and self.masks.ndim == 2 and len(self.masks) and self.hidden is None:
            object.__setattr__(self, "hidden", int(self.masks.sum(dim=1).max()))

    def __getitem__(self, part: slice) -> View:
        """The same view of some of the images."""
        of_images = ("pixels", "index", "masks", "to_canvas", "table")
        present = {name: value for name in of_images if (value := getattr(self, name)) is not None}
        return replace(self, **{name: value[part] for name, value in present.items()})
