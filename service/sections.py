"""The sections of the configuration: every limit with its unit and its reason. `service.config` reads the file."""

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.peers import ReportGroups, Retrieve, Segmentation, Send
from dicom_bridge.tls import TlsFiles
from ethics_review.vocabulary import MINORS, OPT_OUT_CHECK, is_requirement
from service.links import BASE

AE_TITLE = r"^[A-Za-z0-9 _.-]{1,16}$"  # PS3.5 6.2, AE: 16 characters; backslash and control characters excluded
NAME = r"^[a-z0-9][a-z0-9-]{0,31}$"
POSTGRESQL = "postgresql+psycopg"  # as SQLAlchemy and DBOS name the dialect and the driver
CLOCK_H_MAX = 366 * 24  # a duty to tell that lasts longer than a year is none
LOOPBACK = "127.0.0.1"  # nothing is reachable from outside before somebody decides so


class Section(BaseModel):
    """A part of the file: unknown keys refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Papers(Section):
    """What we show over mutual TLS, and what the other side's certificate must be signed by. Paths of PEM files."""

    certificate: Path
    key: Path
    authority: Path  # signs the certificates of those that may talk to us, or that we talk to

    @property
    def files(self) -> TlsFiles:
        """As the TLS code wants them."""
        return TlsFiles(self.certificate, self.key, self.authority)


class Site(Section):
    """Who runs this."""

    id: str = Field("local-site", pattern=NAME)
    language: Literal["zh-CN", "en-US"] = "zh-CN"
    charset: Literal["ISO_IR 192", "GB18030"] = "ISO_IR 192"  # of what we send; GB18030 for a PACS that lacks UTF-8


class Data(Section):
    """Where everything is kept."""

    folder: Path = Path("zhiying-data")
    free_bytes_min: int = Field(2 * 1024**3, ge=0)  # below this, C-STORE answers 0xA700 and the sender keeps its copy


class Tls(Papers):
    """DICOM TLS (PS3.15 annex B.12): mutual, or not at all."""

    port: int = Field(2762, ge=0, le=65535)  # dicom-tls


class Dicom(Section):
    """Our application entity."""

    ae_title: str = Field("ZHIYING", pattern=AE_TITLE)
    host: str = LOOPBACK
    port: int = Field(11112, ge=0, le=65535)
    plain: bool = True  # false: only the TLS port listens
    tls: Tls | None = None
    known_peers_only: bool = False  # true: an AE title that is not in [[peers]] is rejected
    associations_max: int = Field(64, ge=1)  # a PACS opens a handful; pynetdicom's own 10 refuses a busy one
    instance_bytes_max: int = Field(2 * 1024**3, ge=1024**2)  # the largest real ones, enhanced multi-frame, have 1 GiB

    @model_validator(mode="after")
    def _listens(self) -> "Dicom":
        if not self.plain and self.tls is None:
            raise ValueError("plain = false needs [dicom.tls]: nothing would listen")
        return self


class RuleSection(Section):
    """Which series go to which model, besides what its own manifest asks; for each model the first rule that fits."""

    name: str
    model: str  # a name, or name/version
    urgent: bool = False  # such a study overtakes the queue
    final: bool = False  # where this rule takes a series, no later rule is asked
    modality: tuple[str, ...] = ()
    sop_class: tuple[str, ...] = ()
    image_type_includes: tuple[str, ...] = ()
    image_type_excludes: tuple[str, ...] = ()
    description_any: tuple[str, ...] = ()  # words of the series description
    description_none: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    protocol_any: tuple[str, ...] = ()
    sender: tuple[str, ...] = ()  # AE titles
    contrast: bool | None = None
    lossy: bool | None = None  # false refuses pixels that were compressed with loss
    slices: tuple[float, float] | None = None
    orientation: tuple[str, ...] = ()  # AXIAL, SAGITTAL, CORONAL, OBLIQUE
    rows: tuple[float, float] | None = None
    columns: tuple[float, float] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    slice_spacing_mm: tuple[float, float] | None = None
    part: str | None = None  # of a series with several volumes: first, last or KEY=VALUE


class Http(Section):
    """The operators' API."""

    host: str = LOOPBACK
    port: int = Field(8300, ge=0, le=65535)
    log_in: bool | None = None  # who looks gives a token; left out: no, and then only on loopback; docs/running.md


class PeerSection(Section):
    """A DICOM system that we talk to; nothing leaves to any other (I8)."""

    name: str = Field(pattern=NAME)
    ae_title: str = Field(pattern=AE_TITLE)
    host: str
    port: int = Field(ge=1, le=65535)
    counts: bool = False  # it answers C-FIND with NumberOfSeriesRelatedInstances
    commitment: bool = False  # it is a storage commitment SCP: results are delivered when it has committed them
    tls: bool = False  # we call it over TLS, with [dicom.tls]
    send: Send = Send.C_STORE
    retrieve: Retrieve = Retrieve.C_MOVE
    web: str | None = None  # DICOMweb root, such as https://pacs:8443/dicom-web
    orthanc: str | None = None  # root of its Orthanc REST API
    addresses: tuple[str, ...] = ()  # networks that it may call us from; none: any
    certificate: str | None = None  # SHA-256 fingerprint of the one certificate that it may call us with
    assumed_charset: str | None = None  # of what it sends without a character set, or with one that is not true
    quiet_s: float | None = Field(None, gt=0)  # instead of [assembly] quiet_s
    verdicts: bool = False  # edited and verified results that it sends are decisions of readers; see docs/deciding.md

    @model_validator(mode="after")
    def _is_more_than_a_name(self) -> "PeerSection":
        if self.verdicts and not (self.addresses or self.certificate or self.tls):
            raise ValueError("verdicts = true needs addresses, a certificate or tls: an AE title anybody can write")
        return self

    @model_validator(mode="after")
    def _reports_stay_readable(self) -> "PeerSection":
        """DCMTK until 3.6.7 cannot open a report whose tree names an image of a class that it does not know."""
        if self.segmentation is Segmentation.LABELMAP and self.report_groups is not ReportGroups.PLANAR:
            raise ValueError('segmentation = "LABELMAP" needs report_groups = "PLANAR": docs/hazards.md, V11')
        return self

    report_groups: ReportGroups = ReportGroups.VOLUMETRIC  # of reports to it; PLANAR for older viewers: hazards.md, V1
    segmentation: Segmentation = Segmentation.BINARY  # of results to it; LABELMAP where it takes them: hazards.md, V5


class Results(Section):
    """Where findings go."""

    to: str | None = None  # a peer's name; none: results are made, logged and kept, but nobody sees them
    denials: bool = False  # a report also where the gate refuses: "AI not performed", and the code
    heat_maps: bool = False  # besides them the probability maps of models that give any, for systems that read them
    key_images: tuple[KeyImage, ...] = ()  # besides SEG and SR, for viewers that show neither; true: pictures, SC
    rejection_notes: bool = False  # tell the PACS what is superseded or withdrawn (IHE IOCM); the old stays as it is
    keep_trying_days: float = Field(7.0, gt=0)  # a long holiday weekend with nobody to repair the PACS, and some more
    commitment_wait_h: float = Field(24.0, gt=0)  # then we ask the PACS by C-FIND, and send again what it has not
    decide_at: str | None = Field(None, pattern=BASE)  # where readers' browsers reach us, such as https://ai.example

    @field_validator("key_images", mode="before")
    @classmethod
    def _kinds_of_key_images(cls, given: object) -> object:
        if isinstance(given, bool):
            return (KeyImage.SC,) if given else ()
        if isinstance(given, (list, tuple)) and len(set(map(str, given))) != len(given):
            raise ValueError("a kind of key image stands there twice")
        return given


class Retention(Section):
    """How long pixels stay with us."""

    pixels_h: float = Field(24.0, ge=0)  # after the results are committed; what waits for a person is kept


class StandingQuery(Section):
    """Studies are fetched from a peer that cannot send them."""

    peer: str
    modalities: tuple[str, ...] = Field(min_length=1)  # Modalities in Study (0008,0061)
    every_s: float = Field(60.0, ge=5)
    look_back_h: float = Field(24.0, gt=0)


class AssemblySection(Section):
    """When a study is believed complete."""

    quiet_s: float = Field(30.0, gt=0)  # last resort, for peers that do not answer C-FIND
    count_confirm_s: float = Field(0.3, ge=0)  # two equal counts this far apart


class EngineSection(Section):
    """The device that runs the models."""

    device: str | None = None  # none: torch.accelerator decides, CPU where there is none


class EvidenceSection(Section):
    """A requirement of approvals that this site fulfils: "pia:ID", "registration:NO" or "minors:RULE"."""

    token: str
    until: date | None = None  # the last day; only a rule for minors can do without one

    @model_validator(mode="after")
    def _can_be_asked_for(self) -> "EvidenceSection":
        if not is_requirement(self.token) or self.token == OPT_OUT_CHECK:
            raise ValueError("token: pia:ID, registration:NO or minors:RULE wanted")
        if self.until is None and not self.token.startswith(MINORS):
            raise ValueError("until: the day wanted on which it ends")
        return self


class Review(Section):
    """Whose approval counts, and how this site uses what was approved. What is not said here is unknown to the gate."""

    trust: Path | None = None  # the trust policy, exchanged out of band (docs/dossiers.md); none: nobody counts
    clocks_h: dict[str, float] = {}  # hours until an incident must be told, by the clock's code; see docs/incidents.md
    autonomy: Literal["A0", "A1", "A2", "A3", "A4"] = "A1"  # what this site asks for: A1, a physician decides each case
    care_setting: Literal["IP", "OP", "ED", "PE"] | None = None  # whom it serves; see ethics_review.vocabulary
    reading_mode: Literal["concurrent", "first_reader", "second_reader", "triage"] | None = None
    evidence: tuple[EvidenceSection, ...] = ()

    @field_validator("clocks_h")
    @classmethod
    def _clocks_are_known(cls, hours: dict[str, float]) -> dict[str, float]:
        from ethics_review.incident import CODES  # deferred: most commands need no incidents

        for code, given in hours.items():
            if code not in CODES:
                raise ValueError(f"there is no clock {code}; there are {', '.join(sorted(CODES))}")
            if not 0 < given <= CLOCK_H_MAX:
                raise ValueError(f"{code}: hours from 0 to {CLOCK_H_MAX} wanted")
        return hours


class ReaderSection(Section):
    """A physician who decides on results through the API. The token itself is nowhere: the reader has it."""

    name: str = Field(pattern=NAME)
    role: Literal["CLINICAL_OWNER", "RADIOLOGIST"]
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    training: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")  # digest of the record of their training on these models


class OperatorSection(Section):
    """A person or program that looks after the service: VIEWER looks, OPERATOR also orders pulls."""

    name: str = Field(pattern=NAME)
    role: Literal["VIEWER", "OPERATOR"]
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class GoldenSection(Section):
    """A golden case for a model that brings none; see docs/monitoring.md."""

    model: str  # a name, or name/version
    folder: Path  # with case.json and volume.npz


class Syslog(Papers):
    """Where DICOM audit messages go (PS3.15 A.5, A.6; RFC 5425): mutual TLS, or not at all."""

    host: str = Field(min_length=1)
    port: int = Field(6514, ge=1, le=65535)  # syslog-tls
    fingerprint: str | None = None  # of the one certificate that it may show
    msgid: str = Field("IHE+RFC-3881", pattern=r"[!-~]{1,32}")  # some repositories want DICOM+RFC3881
    spool_bytes_max: int = Field(64 * 1024**2, ge=1024**2)  # more waits in the log itself


class Timestamps(Section):
    """Who stamps the log's checkpoints (RFC 3161). Paths of PEM files."""

    url: str | None = Field(None, pattern=r"^https?://[!-~]+$")  # none: queries and answers travel as files
    authority: Path  # the one certificate whose stamps count, from the authority itself
    chain: Path | None = None  # those above it, up to the root; none: it signed itself
    every_s: float = Field(3600.0, ge=1)  # an hour bounds each entry well enough, and no public authority minds it
    policy_oid: str | None = Field(None, pattern=r"^[0-2](\.(0|[1-9][0-9]*))+$")  # none: any of the authority's


class Audit(Section):
    """The log: what of it goes out live, whose word counts beside ours, and whether an SM3 tree is signed too."""

    sm3: bool = False
    syslog: Syslog | None = None
    timestamps: Timestamps | None = None
    witnesses: Path | None = None  # a policy: who cosigns our checkpoints; see docs/witnesses.md
    unwitnessed_max_h: float = Field(24.0, gt=0)  # no inference when the last quorum is older; for media once a day: 48
    restore_keys: tuple[str, ...] = ()  # C2SP verifier keys of who may let a log end; see docs/restore.md


class ReportTls(Papers):
    """Mutual TLS to a receiver of reports."""

    fingerprint: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")  # of the one certificate that it may show


class Hl7Reports(Section):
    """Results as HL7 v2.5.1 ORU^R01 by MLLP, never final; see docs/reports.md."""

    name: str = Field("ris", pattern=NAME)  # in the log and in commands
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    tls: ReportTls | None = None
    charset: Literal["UNICODE UTF-8", "GB 18030-2000"] = "UNICODE UTF-8"  # MSH-18
    sender: str = "ZHIYING"  # MSH-3
    sender_facility: str = ""  # MSH-4; none: site.id
    receiver: str = ""  # MSH-5
    receiver_facility: str = ""  # MSH-6
    answer_s: float = Field(30.0, gt=0, le=300)  # interface engines that wait for their own receivers take some
    keep_trying_days: float = Field(7.0, gt=0)  # as results.keep_trying_days; then it is a dead letter


class FhirReports(Section):
    """Results as a FHIR R4 transaction, never final; see docs/reports.md."""

    name: str = Field("record", pattern=NAME)  # in the log and in commands
    url: str = Field(pattern=BASE)  # the server's base
    tls: ReportTls | None = None  # none: an https address is believed by the machine's own authorities
    token: Path | None = None  # a file with a bearer token, read at each try
    patient_system: str = ""  # of the identifiers by which the record knows patients: a URI
    accession_system: str = ""
    answer_s: float = Field(10.0, gt=0, le=300)
    keep_trying_days: float = Field(7.0, gt=0)

    @model_validator(mode="after")
    def _tls_is_https(self) -> "FhirReports":
        if self.tls is not None and not self.url.startswith("https:"):
            raise ValueError("tls wants an https address")
        return self


class Reports(Section):
    """Who is told of released results besides the PACS; nobody, unless a receiver is named."""

    hl7: Hl7Reports | None = None
    fhir: FhirReports | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> "Reports":
        if self.hl7 is not None and self.fhir is not None and self.hl7.name == self.fhir.name:
            raise ValueError("two receivers have the same name")
        return self


class Database(Section):
    """Workflow state: SQLite files under the data folder, or one PostgreSQL for many machines."""

    url: str | None = None  # postgresql://user:password@host:port/name; the role need own only that database

    @field_validator("url")
    @classmethod
    def _for_our_driver(cls, url: str | None) -> str | None:
        """Whatever driver is written, or none: psycopg 3 is the one that is installed."""
        if url is None:
            return None
        from sqlalchemy.engine import make_url  # deferred: without a PostgreSQL no command needs to wait for it
        from sqlalchemy.exc import ArgumentError

        try:
            parsed = make_url(url)
        except ArgumentError:
            parsed = None
        if parsed is None or parsed.get_backend_name() != "postgresql" or not parsed.database:
            # The value itself is never quoted: it holds a password.
            raise ValueError("only postgresql://user:password@host:port/name is understood")
        return parsed.set(drivername=POSTGRESQL).render_as_string(hide_password=False)
