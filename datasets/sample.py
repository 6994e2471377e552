"""An image of a data set, as readers find it. Nothing here needs torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Saturation(NamedTuple):
    """How much of a defect must be found: a number of pixels or, if relative, a share of the defect."""

    threshold: float
    relative: bool


class Sample(NamedTuple):
    """One image: its file, what is known of its defects, and what of it is looked at."""

    path: Path
    # A file, or a folder of masks that are united; None: no ground truth (all of a good image counts as normal).
    mask: Path | None
    defect_type: str  # "good", or the defect type
    roi: Path | None = None  # the mask of what is looked at; None: all of the image
    own_name: str | None = None  # for data sets in which several files have the same name
    saturation: Mapping[int, Saturation] | None = None  # of defects, by the values of their pixels in the masks

    @property
    def stem(self) -> str:
        return self.own_name or self.path.stem

    @property
    def name(self) -> str:
        """Unique among the images of a test: hole/003."""
        return f"{self.defect_type}/{self.stem}"
