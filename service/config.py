"""The configuration: one TOML file, every limit with its unit and its reason; the default needs no file.

A key that is not listed here is refused, so that a typing error can never silently mean "default". An environment
variable ZHIYING_<SECTION>__<KEY> overrides the file, which is how a container passes a folder.
"""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from service.errors import ConfigInvalid

AE_TITLE = r"^[A-Za-z0-9 _.-]{1,16}$"  # PS3.5 6.2, AE: 16 characters; backslash and control characters excluded
NAME = r"^[a-z0-9][a-z0-9-]{0,31}$"
POSTGRESQL = "postgresql+psycopg"  # as SQLAlchemy and DBOS name the dialect and the driver
LOOPBACK = "127.0.0.1"  # nothing is reachable from outside before somebody decides so


class Section(BaseModel):
    """A part of the file: unknown keys refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Site(Section):
    """Who runs this."""

    id: str = Field("local-site", pattern=NAME)
    language: Literal["zh-CN", "en-US"] = "zh-CN"
    charset: Literal["ISO_IR 192", "GB18030"] = "ISO_IR 192"  # of what we send; GB18030 for a PACS that lacks UTF-8


class Data(Section):
    """Where everything is kept."""

    folder: Path = Path("zhiying-data")
    free_bytes_min: int = Field(2 * 1024**3, ge=0)  # below this, C-STORE answers 0xA700 and the sender keeps its copy


class Dicom(Section):
    """Our application entity."""

    ae_title: str = Field("ZHIYING", pattern=AE_TITLE)
    host: str = LOOPBACK
    port: int = Field(11112, ge=0, le=65535)
    associations_max: int = Field(64, ge=1)  # a PACS opens a handful; pynetdicom's own 10 refuses a busy one


class Http(Section):
    """The operators' API."""

    host: str = LOOPBACK
    port: int = Field(8300, ge=0, le=65535)


class PeerSection(Section):
    """A DICOM system that we talk to; nothing leaves to any other (I8)."""

    name: str = Field(pattern=NAME)
    ae_title: str = Field(pattern=AE_TITLE)
    host: str
    port: int = Field(ge=1, le=65535)
    counts: bool = False  # it answers C-FIND with NumberOfSeriesRelatedInstances


class Results(Section):
    """Where findings go."""

    to: str | None = None  # a peer's name; none: results are made, logged and kept, but nobody sees them


class AssemblySection(Section):
    """When a study is believed complete."""

    quiet_s: float = Field(30.0, gt=0)  # last resort, for peers that do not answer C-FIND
    count_confirm_s: float = Field(0.3, ge=0)  # two equal counts this far apart


class EngineSection(Section):
    """The device that runs the models."""

    device: str | None = None  # none: torch.accelerator decides, CPU where there is none


class Review(Section):
    """Whose approval counts."""

    trusted_keys: tuple[str, ...] = ()  # C2SP verifier keys of reviewers, obtained from them directly
    autonomy: Literal["A0", "A1", "A2", "A3", "A4"] = "A1"  # what this site asks for: A1, a physician decides each case


class Database(Section):
    """Workflow state: SQLite files under the data folder, or one PostgreSQL for many machines."""

    url: str | None = None  # postgresql://user:password@host:port/name; the role need own only that database

    @field_validator("url")
    @classmethod
    def _for_our_driver(cls, url: str | None) -> str | None:
        """Whatever driver is written, or none: psycopg 3 is the one that is installed."""
        if url is None:
            return None
        try:
            parsed = make_url(url)
        except ArgumentError:
            parsed = None
        if parsed is None or parsed.get_backend_name() != "postgresql" or not parsed.database:
            # The value itself is never quoted: it holds a password.
            raise ValueError("only postgresql://user:password@host:port/name is understood")
        return parsed.set(drivername=POSTGRESQL).render_as_string(hide_password=False)


class Config(BaseSettings):
    """All sections. Build it with `load`, which turns a fault into one line."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="ZHIYING_", env_nested_delimiter="__")

    site: Site = Site()
    data: Data = Data()
    dicom: Dicom = Dicom()
    http: Http = Http()
    peers: tuple[PeerSection, ...] = ()
    results: Results = Results()
    assembly: AssemblySection = AssemblySection()
    engine: EngineSection = EngineSection()
    review: Review = Review()
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
    def _names_differ(cls, peers: tuple[PeerSection, ...]) -> tuple[PeerSection, ...]:
        if len({p.name for p in peers}) != len(peers):
            raise ValueError("two peers have the same name")
        return peers

    @model_validator(mode="after")
    def _result_peer_exists(self) -> "Config":
        if self.results.to is not None and self.results.to not in {p.name for p in self.peers}:
            raise ValueError(f"results.to names '{self.results.to}', which is not in [[peers]]")
        return self


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
