"""A labelled local set in a folder: balls of a known size in invented patients, each with a person's outline of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset as Header

from tests.simulators import series, site

RIGHTS = "sha256:" + "5" * 64
CANARY = "TESTZhangSan-0042"
"""In the name of each case's folder, where a person might well write a patient's name."""


def ball(radius: float) -> npt.NDArray[np.bool_]:
    """The truth, (K, R, C): what `site.write_series` draws at `site.BALL_RADIUS`."""
    k, r, c = np.mgrid[: site.SLICES, : site.ROWS, : site.COLUMNS]
    distance = (r - site.ROWS / 2) ** 2 + (c - site.COLUMNS / 2) ** 2 + (k - site.SLICES / 2) ** 2
    inside: npt.NDArray[np.bool_] = distance <= radius**2
    return inside


def save_mask(path: Path, mask: npt.NDArray[np.bool_], *, origin: tuple[float, float, float] = (-10, -20, -30)) -> None:
    """As NIfTI, in RAS as other programs write it: x to the right, so the columns run backwards."""
    stored = np.transpose(mask, (2, 1, 0))[::-1].astype(np.uint8)
    affine = np.diag([1.0, -1.0, 1.0, 1.0])
    # The first stored column is the last one of the image.
    affine[:3, 3] = [-(origin[0] + mask.shape[2] - 1), -origin[1], origin[2]]
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)


@dataclass
class Labelled:
    """The set; `add` a case, then `write` its file."""

    root: Path
    task: str = "SEGMENTATION"
    cases: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, *, drawn: float = site.BALL_RADIUS, label: Mapping[str, object] | None = None, value: int = 1, **tags: str
    ) -> str:
        """One case whose outline has the radius `drawn`; its id. `value`: of the ball; `tags` go into its images."""
        number = len(self.cases)
        folder = self.root / f"{CANARY}-{number}"
        files = series_of(folder, f"case {number}", tags, value)
        assert files
        name = f"mask{number}.nii.gz"
        save_mask(self.root / name, ball(drawn))
        given = {"truth": "PRESENT", "mask": name, "volume_cm3": None} if label is None else dict(label)
        self.cases.append({"id": f"{CANARY}.{number}", "folder": folder.name, **given})
        return str(self.cases[-1]["id"])

    def write(self, **changes: object) -> Path:
        """dataset.json; the folder."""
        fields = {
            "schema": "zhiying.dataset/1",
            "id": "test-set",
            "task": self.task,
            "segment": 1 if self.task == "SEGMENTATION" else None,
            "rights": RIGHTS,
            "cases": self.cases,
        } | changes
        (self.root / "dataset.json").write_text(json.dumps(fields), encoding="utf-8")
        return self.root


def series_of(folder: Path, seed: str, tags: Mapping[str, str], value: int = 1) -> list[Path]:
    """The site's series of a ball of this value, with these attributes changed."""

    def spoil(index: int, ds: Header) -> None:
        site.ball(index, ds, value=value)
        for name, other in tags.items():
            setattr(ds, name, other)

    shape = (site.ROWS, site.COLUMNS)
    return series.write_series(folder, spoil=spoil, seed=seed, shape=shape, count=site.SLICES)
