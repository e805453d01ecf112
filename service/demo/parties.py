"""Plays the three parties that let a model be used: a vendor, the hospital's own people, and a reviewer who is neither.

Everything here is a demonstration. Real parties are three organisations on three machines, and no secret key leaves its
own; only public lines, papers and signed notes travel. Here each has a folder, and every step is the command that a
person would give.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from audit.note import Signer
from ethics_review.periods import CIVIL_TIME
from service.demo.commands import Zhiying
from service.demo.errors import NotHeld

SITE: Final = "demo-hospital"
VENDOR: Final = "DEMO-vendor"
CENTRE: Final = "DEMO-reviewer"
LIVE: Final = "LIVE"
VALID_DAYS: Final = 30  # long enough to play with, short enough that nobody forgets that it is a demo
PEOPLE: Final = {
    "maker": (VENDOR, "DEVELOPER"),
    "owner": (SITE, "CLINICAL_OWNER"),
    "safety": (SITE, "SAFETY_OFFICER"),
    "secretary": (SITE, "SECRETARY"),
    "ops": (SITE, "OPS"),
    "reader": (SITE, "RADIOLOGIST"),
    "reviewer-1": (CENTRE, "REVIEWER"),
    "reviewer-2": (CENTRE, "REVIEWER"),
}
_KINDS: Final = {VENDOR: "vendor", SITE: "hospital", CENTRE: "reviewer"}
_PAPER: Final = "DEMO: this stands for a paper of the dossier, and says nothing"
_RIGHTS: Final = "DEMO: the MNI152 template, from nilearn's wheel"


@dataclass(frozen=True, slots=True)
class Lived:
    """What the parties did: the approval's terms, and (event, who signed) of each step, in order."""

    terms: dict[str, Any]
    steps: tuple[tuple[str, str], ...]


class Parties:
    """A folder for each party, with the keys of its people; `policy` is what they exchanged beforehand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._steps: list[tuple[str, str]] = []

    def key(self, name: str) -> Path:
        """Where this person keeps the secret key."""
        return self._folder / PEOPLE[name][0].lower() / f"{name}.key"

    def policy(self, zhiying: Zhiying) -> str:
        """The trust policy, a line a person; keys are made by `review keygen` the first time."""
        lines = [f"organisation {name} {kind}" for name, kind in _KINDS.items()]
        for name, (organisation, role) in PEOPLE.items():
            path = self.key(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                zhiying.ask("review", "keygen", "--name", f"{name}.example", "--out", path, configured=False)
            lines.append(f"person {Signer.load(path).vkey} {organisation} {role}")
        return "\n".join(lines) + "\n"

    def live(
        self,
        zhiying: Zhiying,
        model: dict[str, str],
        images: Path,
        now: datetime,
        tell: Callable[[str], None],
        *,
        state: str | None = None,
    ) -> Lived:
        """From nothing to LIVE: assessed, submitted, reviewed, approved, tried in shadow, stopped once for practice.

        `images`: the one case on which the hospital tries it. `state`: where it stands, from which they go on. Raises
        NotHeld where LIVE cannot be reached any more.
        """
        paper, terms = _digest(_PAPER), terms_for(model, _digest(_PAPER), now)
        asked = {"submission": paper, "coi": [VENDOR, SITE], "documents": {"model card": paper}}

        def act(event: str, statement: dict[str, Any], *by: str) -> Callable[[], None]:
            return lambda: self._act(zhiying, model, event, statement, *by)

        steps: dict[str | None, Callable[[], None]] = {
            None: act("OPEN", {}, "maker"),
            "DRAFT": act("SELF_ASSESS", {"submission": paper}, "maker", "owner"),
            "SELF_ASSESSED": act("SUBMIT", asked, "secretary"),
            "SUBMITTED": act("BEGIN_REVIEW", {}, "reviewer-1"),
            "UNDER_REVIEW": lambda: self._approve(zhiying, terms),
            "APPROVED_WITH_CONDITIONS": act("DEPLOY", {}, "ops", "owner"),
            "SHADOW": lambda: self._go_live(zhiying, model, images, tell),
        }
        if state not in steps:
            raise NotHeld(f"the model's dossier is {state}: `make demo-clean` begins anew")
        for step in list(steps)[list(steps).index(state) :]:
            steps[step]()
        return Lived(terms, tuple(self._steps))

    def state(self, zhiying: Zhiying, model: dict[str, str]) -> str | None:
        """Where the model's dossier stands; None where there is none."""
        found = zhiying.ask("review", "show")["dossiers"]
        return next((str(one["state"]) for one in found if one["digest"] == model["digest"]), None)

    def _approve(self, zhiying: Zhiying, terms: dict[str, Any]) -> None:
        draft = self._new("terms.json")
        draft.write_text(json.dumps(terms, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        self._sign(zhiying, draft, "APPROVE", "reviewer-1", "reviewer-2")

    def _go_live(self, zhiying: Zhiying, model: dict[str, str], images: Path, tell: Callable[[str], None]) -> None:
        tell("the hospital tries it in the shadow: one case, which nobody sees")
        tried = zhiying.ask("evaluate", model["name"], self._dataset(images))
        stop = ("--level", "service", "--reason", "DRILL")
        zhiying.ask("review", "stop", *stop, "--key", self.key("reader"))
        keys = ("--key", self.key("owner"), "--key", self.key("safety"))
        drill = zhiying.ask("review", "resume", *stop, *keys)
        self._steps += [("STOP, for practice", "reader"), ("RESUME", "owner, safety")]
        paper = _digest(_PAPER)
        shown = {"notice": paper, "training": paper, "drill": drill["entry"], "acceptance": tried["entry"]}
        self._act(zhiying, model, "GO_LIVE", shown, "owner", "safety")

    def _act(self, zhiying: Zhiying, model: dict[str, str], event: str, statement: dict[str, Any], *by: str) -> None:
        said, text = self._new("statement.json"), self._new(f"{event.lower()}.txt")
        said.write_text(json.dumps(statement) + "\n", encoding="utf-8")
        zhiying.ask("review", "draft", event, model["digest"], "--statement", said, "--out", text)
        self._sign(zhiying, text, event, *by)

    def _sign(self, zhiying: Zhiying, text: Path, event: str, *by: str) -> None:
        """Everybody signs on a machine of their own; what they signed goes from one to the next, and into the log."""
        for name in by:
            note = self._new(f"{event.lower()}.note")
            zhiying.ask("review", "sign", text, "--key", self.key(name), "--out", note, configured=False)
            text = note
        zhiying.ask("review", "import", text)
        self._steps.append((event, ", ".join(by)))

    def _dataset(self, images: Path) -> Path:
        folder = self._folder / SITE.lower() / "acceptance"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "images"
        link.unlink(missing_ok=True)
        link.symlink_to(images.absolute())
        case = {"id": "c001", "folder": "images", "truth": "PRESENT", "mask": None, "volume_cm3": None}
        said = {"schema": "zhiying.dataset/1", "id": "demo", "task": "SEGMENTATION", "segment": 1}
        said |= {"rights": _digest(_RIGHTS), "cases": [case]}
        (folder / "dataset.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        return folder

    def _new(self, name: str) -> Path:
        """A file that was not there before: nothing that was signed is ever overwritten."""
        folder = self._folder / "exchanged"
        folder.mkdir(parents=True, exist_ok=True)
        while (path := folder / f"{self._count:03d}-{name}").exists():
            self._count += 1
        self._count += 1
        return path


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def terms_for(model: dict[str, str], submission: str, now: datetime) -> dict[str, Any]:
    """What is approved: this exact model, for adults' brain MRI at this site, each case decided by a physician (A1)."""
    today = now.astimezone(CIVIL_TIME).date()
    return {
        "approval": f"DEMO-{model['digest'].removeprefix('sha256:')[:12]}-{today:%m%d}",
        "criteria_set": "demo-criteria-1",
        "model": {key: model[key] for key in ("name", "version", "digest")},
        "reviewer_org": CENTRE,
        "submission": submission,
        "follow_up": {"days": VALID_DAYS, "listed": False},
        "valid": {"from": today.isoformat(), "to": (today + timedelta(days=VALID_DAYS)).isoformat()},
        "conditions": {
            "modality": ["MR"],
            "body_part": ["BRAIN", "HEAD"],
            "age_years": [18, 90],
            "sex": ["F", "M", "O"],
            "manufacturer": ["*"],
            "site": [SITE],
            "slice_spacing_mm": ["0.50", "2.00"],
            "max_autonomy": "A1",
            "care_setting": ["*"],
            "reading_mode": ["second_reader"],
            "max_calls_day": 2000,
            "require": ["opt_out_check"],
        },
        "monitor": {
            "disagree_p0": "0.06",
            "disagree_p1": "0.12",
            "cusum_h": "6",
            "failure_rate": "0.02",
            "subgroup_gap": "0.10",
            "p95_ms": 120_000,
            "human_decision_h": 24,
        },
        # One case that does not fail: enough to show the way, and far too little for a hospital.
        "acceptance": [{"metric": "FAILURES", "subgroup": None, "n": 1, "at_least": None, "at_most": "0.9"}],
        "on_breach": "SUSPEND",
    }
