"""Three parties with a key for every person: a vendor, a hospital, a reviewer, and a panel beside them.

They sign what real ones would sign. `Case` plays one dossier against a register; `Case.live` is its whole life to LIVE.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from audit.entry import Draft, Entry, JsonValue, Kind
from audit.log import AuditLog
from audit.note import Signer
from ethics_review import acts
from ethics_review.acts import Act, Switch
from ethics_review.dossier import Approval, draft_approval
from ethics_review.parties import Trust, parse_trust
from ethics_review.register import Register
from ethics_review.states import Event, Role, State
from models.ref import ModelRef

HOSPITAL: Final = "test-hospital"
VENDOR: Final = "test-vendor"
CENTRE: Final = "test-review-centre"
SECOND: Final = "second-review-centre"
PANEL: Final = "test-panel"
D1: Final = "sha256:" + "1" * 64
ORGANISATIONS: Final = {
    HOSPITAL: "hospital",
    VENDOR: "vendor",
    CENTRE: "reviewer",
    SECOND: "reviewer",
    PANEL: "panel",
}
PEOPLE: Final[Mapping[str, tuple[str, tuple[Role, ...]]]] = {
    "maker": (VENDOR, (Role.DEVELOPER,)),
    "owner": (HOSPITAL, (Role.CLINICAL_OWNER,)),
    "safety": (HOSPITAL, (Role.SAFETY_OFFICER,)),
    "secretary": (HOSPITAL, (Role.SECRETARY,)),
    "ops": (HOSPITAL, (Role.OPS,)),
    "reader": (HOSPITAL, (Role.RADIOLOGIST,)),
    "auditor": (HOSPITAL, (Role.AUDIT_ADMIN,)),
    "root": (HOSPITAL, (Role.SYSTEM_ADMIN,)),
    "reviewer-1": (CENTRE, (Role.REVIEWER,)),
    "reviewer-2": (CENTRE, (Role.REVIEWER,)),
    "reviewer-3": (CENTRE, (Role.REVIEWER,)),
    "other-1": (SECOND, (Role.REVIEWER,)),
    "other-2": (SECOND, (Role.REVIEWER,)),
    **{f"panelist-{number}": (PANEL, (Role.PANELIST,)) for number in range(1, 6)},
}
PANELISTS: Final = tuple(name for name in PEOPLE if name.startswith("panelist"))


@dataclass(frozen=True)
class Parties:
    """Everybody's key. `names` leaves people out of the trust policy; `more` are further lines of it."""

    signers: Mapping[str, Signer] = field(
        default_factory=lambda: {name: Signer.generate(f"{name}.example") for name in PEOPLE}
    )

    def policy(self, *, without: Sequence[str] = (), more: str = "") -> str:
        """The trust policy as a text."""
        lines = [f"organisation {name} {kind}" for name, kind in ORGANISATIONS.items()]
        for name, (organisation, roles) in PEOPLE.items():
            if name not in without:
                lines.append(f"person {self.signers[name].vkey} {organisation} {','.join(roles)}")
        return "\n".join([*lines, more]) + "\n"

    def trust(self, *, without: Sequence[str] = (), more: str = "") -> Trust:
        """The trust policy."""
        return parse_trust(self.policy(without=without, more=more))

    def sign(self, text: str, *names: str) -> str:
        """The text with the signatures of these people."""
        return acts.sign(text, *(self.signers[name] for name in names))

    def keys(self) -> str:
        """Everybody's secret key, to be kept for another process of the same test."""
        return json.dumps({name: signer._skey() for name, signer in self.signers.items()})

    @classmethod
    def of_keys(cls, text: str) -> "Parties":
        """What `keys` wrote."""
        return cls({name: Signer.parse(key) for name, key in json.loads(text).items()})


@dataclass(frozen=True)
class Case:
    """One dossier, and who plays it: what is signed goes through `register`, what the service logs into `log`."""

    parties: Parties
    register: Register
    log: AuditLog
    model: ModelRef

    @property
    def state(self) -> State | None:
        """Where it stands."""
        standing = self.register.standing(self.model.digest)
        return None if standing is None else standing.state

    def act(
        self,
        event: Event,
        to: State,
        *by: str,
        statement: Mapping[str, JsonValue] | None = None,
        reason: str = "TEST",
        after: str | None = "",
    ) -> str:
        """A signed act that fits where the dossier stands. `after`: in place of its newest note."""
        standing = self.register.standing(self.model.digest)
        last = None if standing is None else standing.last_note
        act = Act(
            last if after == "" else after,
            event,
            None if standing is None else standing.state,
            to,
            self.model,
            reason,
            statement or {},
        )
        return self.parties.sign(acts.draft(act), *by)

    def do(self, event: Event, to: State, *by: str, **more: Any) -> Entry:
        """Sign it and have it recorded."""
        return self.register.act(self.act(event, to, *by, **more))

    def submitted(self, *, coi: Sequence[str] = (VENDOR, HOSPITAL)) -> None:
        """From nothing to UNDER_REVIEW."""
        self.do(Event.OPEN, State.DRAFT, "maker")
        self.do(Event.SELF_ASSESS, State.SELF_ASSESSED, "maker", "owner", statement={"submission": D1})
        statement: dict[str, JsonValue] = {"submission": D1, "coi": list(coi), "documents": {"model card": D1}}
        self.do(Event.SUBMIT, State.SUBMITTED, "secretary", statement=statement)
        self.do(Event.BEGIN_REVIEW, State.UNDER_REVIEW, "reviewer-1")

    def approval(self, terms: Mapping[str, Any], *by: str) -> str:
        """The signed approval of these terms, by two reviewers where nobody is named."""
        return self.parties.sign(draft_approval(terms), *(by or ("reviewer-1", "reviewer-2")))

    def accept(self, approval: str, *, unmet: int = 0) -> int:
        """The entry of a local acceptance."""
        number = self.register._caught_up().next
        body: dict[str, JsonValue] = {
            "model": self.named(),
            "approval": approval,
            "dataset": D1,
            "cases": 120,
            "rows": [],
            "unmet": unmet,
            "report": D1,
            "code": D1,
        }
        return self.log.append(Draft(Kind.ACCEPTANCE, f"acceptance:{number}", body)).index

    def golden(self, outcome: str = "MATCH") -> int:
        """The entry of a golden case."""
        number = self.register._caught_up().next
        body: dict[str, JsonValue] = {
            "model": self.named(),
            "case": D1,
            "occasion": "REQUEST",
            "outcome": outcome,
            "measurements": [],
            "difference": "0",
            "tolerance": "0.01",
            "device": "cpu",
            "runtime": {},
        }
        return self.log.append(Draft(Kind.GOLDEN, f"golden:{number}", body)).index

    def named(self) -> dict[str, JsonValue]:
        """The model as entries name it."""
        return {"name": self.model.name, "version": self.model.version, "digest": self.model.digest}

    def switch(self, event: str, *by: str, level: str = "SERVICE", site: str | None = None, reason: str) -> Entry:
        """A signed STOP or RESUME of a site or the service, recorded."""
        switch = Switch(self.register.last_switch(level, site), event, level, site, reason)
        return self.register.act(self.parties.sign(acts.draft(switch), *by))

    def drill(self) -> int:
        """A stop of the service that is tried and ended; the entry that ended it."""
        self.switch("STOP", "reader", reason="DRILL")
        return self.switch("RESUME", "owner", "safety", reason="DRILL").index

    def deploy(self) -> Entry:
        """APPROVED to SHADOW."""
        return self.do(Event.DEPLOY, State.SHADOW, "ops", "owner")

    def go_live(self, approval: str) -> Entry:
        """SHADOW to LIVE, with the acceptance and the drill that it wants."""
        statement: dict[str, JsonValue] = {
            "notice": D1,
            "training": D1,
            "drill": self.drill(),
            "acceptance": self.accept(approval),
        }
        return self.do(Event.GO_LIVE, State.LIVE, "owner", "safety", statement=statement)

    def live(self, terms: Mapping[str, Any]) -> Approval:
        """The whole life up to LIVE; where it is in use already, a renewal."""
        if self.state is None:
            self.submitted()
        approval = self.register.record(self.approval(terms))
        if self.state in {State.APPROVED, State.APPROVED_WITH_CONDITIONS}:
            self.deploy()
            self.go_live(approval.id)
        return approval

    def suspend(self, cause: str = "OPERATOR", by: str = "reader") -> Entry:
        """Suspended by a person."""
        return self.do(Event.SUSPEND, State.SUSPENDED, by, statement={"cause": cause}, reason=cause)

    def resume(self, *by: str, to: State = State.LIVE, golden: int | None = None) -> Entry:
        """Back from a suspension; by the two of the hospital where nobody is named."""
        statement: dict[str, JsonValue] = {
            "root_cause": D1,
            "correction": D1,
            "golden": self.golden() if golden is None else golden,
        }
        return self.do(Event.RESUME, to, *(by or ("owner", "safety")), statement=statement)
