"""The configuration: one TOML file, every limit with its unit and its reason; the default needs no file.

A key that is not listed in `service.sections` is refused, so that a typing error can never silently mean "default". An
environment variable ZHIYING_<SECTION>__<KEY> overrides the file, which is how a container passes a folder.
"""

import tomllib
from pathlib import Path

from pydantic import ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_bridge.errors import PeerInvalid
from dicom_bridge.peers import Peer, ReportGroups, Segmentation
from dicom_bridge.rules import Rule, RuleInvalid
from service.errors import ConfigInvalid
from service.sections import (
    AssemblySection,
    Audit,
    Data,
    Database,
    Dicom,
    EngineSection,
    GoldenSection,
    Http,
    OperatorSection,
    PeerSection,
    ReaderSection,
    Reports,
    Results,
    Retention,
    Review,
    RuleSection,
    Site,
    StandingQuery,
)


class Config(BaseSettings):
    """All sections. Build it with `load`, which turns a fault into one line."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="ZHIYING_", env_nested_delimiter="__")

    site: Site = Site()
    data: Data = Data()
    dicom: Dicom = Dicom()
    http: Http = Http()
    peers: tuple[PeerSection, ...] = ()
    results: Results = Results()
    reports: Reports = Reports()
    retention: Retention = Retention()
    standing_queries: tuple[StandingQuery, ...] = ()
    rules: tuple[RuleSection, ...] = ()
    assembly: AssemblySection = AssemblySection()
    engine: EngineSection = EngineSection()
    review: Review = Review()
    readers: tuple[ReaderSection, ...] = ()
    operators: tuple[OperatorSection, ...] = ()
    golden: tuple[GoldenSection, ...] = ()
    audit: Audit = Audit()
    database: Database = Database()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file; no .env file is looked for."""
        return env_settings, init_settings

    @field_validator("peers")
    @classmethod
    def _character_sets_can_be_read(cls, peers: tuple[PeerSection, ...]) -> tuple[PeerSection, ...]:
        for term in sorted({one.assumed_charset for one in peers if one.assumed_charset is not None}):
            from dicom_bridge.charset import known  # deferred: pulls in pydicom, which most commands need not

            if not known(term):
                raise ValueError(f"assumed_charset '{term}' is no character set (0008,0005) that is read here")
        return peers

    @field_validator("peers")
    @classmethod
    def _names_differ(cls, peers: tuple[PeerSection, ...]) -> tuple[PeerSection, ...]:
        if len({p.name for p in peers}) != len(peers):
            raise ValueError("two peers have the same name")
        return peers

    @model_validator(mode="after")
    def _holders_differ(self) -> "Config":
        """Readers and operators together: the log's pseudonym is of the name alone."""
        holders: list[ReaderSection | OperatorSection] = [*self.readers, *self.operators]
        if len({one.name for one in holders}) != len(holders):
            raise ValueError("two of [[readers]] and [[operators]] have the same name")
        if len({one.token_sha256 for one in holders}) != len(holders):
            raise ValueError("two of [[readers]] and [[operators]] have the same token: nobody could tell who it was")
        return self

    @field_validator("golden")
    @classmethod
    def _one_case_each(cls, golden: tuple[GoldenSection, ...]) -> tuple[GoldenSection, ...]:
        if len({one.model for one in golden}) != len(golden):
            raise ValueError("two golden cases for one model")
        return golden

    @model_validator(mode="after")
    def _named_peers_exist(self) -> "Config":
        known = {p.name for p in self.peers}
        named = [("results.to", self.results.to)] + [("standing_queries.peer", q.peer) for q in self.standing_queries]
        for key, name in named:
            if name is not None and name not in known:
                raise ValueError(f"{key} names '{name}', which is not in [[peers]]")
        return self

    @model_validator(mode="after")
    def _peers_can_be_called(self) -> "Config":
        """What a peer's own type refuses is refused when the file is read."""
        for section in self.peers:
            if section.tls and self.dicom.tls is None:
                raise ValueError(f"peer '{section.name}' wants tls, which needs [dicom.tls]")
            try:
                self.peer(section)
            except PeerInvalid as wrong:
                raise ValueError(f"peer '{section.name}': {wrong.detail}") from None
        return self

    @field_validator("rules")
    @classmethod
    def _rules_can_be_asked(cls, rules: tuple[RuleSection, ...]) -> tuple[RuleSection, ...]:
        if len({section.name for section in rules}) != len(rules):
            raise ValueError("two rules have the same name")
        for section in rules:
            try:
                Rule.of(section.model_dump())
            except RuleInvalid as wrong:
                raise ValueError(wrong.detail) from None
        return rules

    @property
    def report_groups(self) -> ReportGroups:
        """The shape of reports for the peer that gets them; all results go to one, so there is one profile."""
        to = (one.report_groups for one in self.peers if one.name == self.results.to)
        return next(to, ReportGroups.VOLUMETRIC)

    @property
    def segmentation(self) -> Segmentation:
        """The type of segmentations for the peer that gets them."""
        return next((one.segmentation for one in self.peers if one.name == self.results.to), Segmentation.BINARY)

    def peer(self, section: PeerSection) -> Peer:
        """One of `peers`, as the bridge knows it."""
        tls = self.dicom.tls
        files = tls.files if tls is not None and section.tls else None
        return Peer(**section.model_dump(exclude={"tls", "verdicts"}), tls=files)


def load(path: Path | None) -> Config:
    """Read `path` (none: defaults). Raises ConfigInvalid, whose message names the key."""
    try:
        fields = {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigInvalid(f"no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigInvalid(f"{path} is not TOML: {fault}") from None
    try:
        return Config(**fields)
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigInvalid(f"{path or 'defaults'}: {where or 'file'}: {first['msg']}") from None
