"""zhiying doctor: is this installation fit to run? Each check looks at the real thing and says what to do."""

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from audit import fsck
from audit.errors import AuditError
from dicom_bridge import profile, query
from dicom_bridge.errors import BridgeError
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.peers import Send
from dicom_bridge.tls import check, expires_at
from ethics_review.errors import ReviewError
from ethics_review.states import RUNNING, Role
from inference.engine import Engine
from inference.errors import InferenceError
from models.errors import ModelError
from models.library import Broken, Library
from service import golden, log_in, stamping, timestamping, wire, witness_client, witnessing
from service.config import Config
from service.errors import NothingSuch, ServiceError
from service.incidents import Incidents
from service.reporting import looking
from service.sections import PeerSection
from service.tsa_client import post
from service.witnessing import Get

OK, WARN, FAIL = "ok", "WARN", "FAIL"
TLS_WARNING = timedelta(days=30)  # a hospital's authority needs weeks to sign another one
PROBE = b"zhiying doctor\n"  # what a time-stamp authority is asked to stamp


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, 'ok', 'WARN' or 'FAIL', and what to do."""

    check: str
    result: str
    what: str


def examine(settings: Config) -> list[Finding]:
    """All checks, in the order in which one would repair them. Does not change anything but its own folder."""
    checks: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        *(
            _disk,
            _log,
            witnesses,
            _time_stamps,
            _models,
            _golden,
            _trust,
            _approvals,
            _incidents,
            _tls,
            _log_in,
            _ports,
            _peers,
            _receivers,
        ),
    )
    return [finding for check in checks for finding in check(settings)]


def examine_peer(settings: Config, name: str) -> list[Finding]:
    """One peer: is it there, and does it accept all that results to it need? Raises NothingSuch."""
    section = next((one for one in settings.peers if one.name == name), None)
    if section is None:
        raise NothingSuch(f"the configuration names no peer '{name}'")
    return [*_peer(settings, section), *_profile(settings, section)]


def _disk(settings: Config) -> Iterator[Finding]:
    folder = settings.data.folder
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < settings.data.free_bytes_min:
        yield Finding("disk", FAIL, f"{free} bytes free under {folder}; below free_bytes_min images are refused")
    else:
        yield Finding("disk", OK, f"{free // 1024**3} GiB free")


def _log(settings: Config) -> Iterator[Finding]:
    if not wire.audit_root(settings).exists():
        yield Finding("audit log", OK, "none yet; made at the first start")
        return
    try:
        report = fsck.check(wire.audit_root(settings), wire.log_verifier(settings))
    except AuditError as error:
        yield Finding("audit log", FAIL, str(error))
        return
    if report.ok:
        yield Finding("audit log", OK, f"{report.size} entries; key {wire.log_vkey(settings)}")
    else:
        first = report.problems[0]
        yield Finding("audit log", FAIL, f"{first.where}: {first.what}; freeze it, do not repair it")


def witnesses(settings: Config, get: Get = witness_client.get) -> Iterator[Finding]:
    """What the log's witnesses hold and have said last. They are asked now, unless what we kept is bad enough."""
    try:
        policy = witnessing.policy_of(settings)
        if policy is None:
            yield Finding(
                "witnesses", WARN, "audit.witnesses is not set: nobody outside can tell if the log was exchanged"
            )
            return
        if not wire.audit_root(settings).exists():
            return
        looked = witnessing.look(settings, policy, get)
    except (AuditError, ServiceError) as error:
        yield Finding("witnesses", FAIL, str(error))
        return
    if looked.wrong is not None:
        yield Finding("witnesses", FAIL, f"{looked.wrong.code}: {looked.wrong}")
        return
    hours = settings.audit.unwitnessed_max_h
    if looked.quorum_at is None:
        yield Finding("witnesses", WARN, "no quorum yet; see docs/witnesses.md")
    elif wire.now() - looked.quorum_at > timedelta(hours=hours):
        yield Finding("witnesses", FAIL, f"AUDIT_UNWITNESSED: last quorum {looked.quorum_at:%Y-%m-%d %H:%M} UTC")
    else:
        yield Finding("witnesses", OK, f"{looked.entries} entries, {looked.quorum_at:%Y-%m-%d %H:%M} UTC")
    for name, code, grave in looked.each:
        yield Finding(f"witness {name}", OK if code is None else FAIL if grave else WARN, code or "answers")


def _models(settings: Config) -> Iterator[Finding]:
    library = Library(settings.data.folder / "models")
    installed = library.list()
    if not installed:
        yield Finding("models", WARN, "none; take one in with `zhiying models pull`")
    for item in installed:
        if isinstance(item, Broken):
            yield Finding(f"model {item.name} {item.version}", FAIL, item.why)
            continue
        try:
            library.open(item.ref)
        except ModelError as error:
            yield Finding(f"model {item.ref.name} {item.ref.version}", FAIL, str(error))
        else:
            yield Finding(f"model {item.ref.name} {item.ref.version}", OK, item.ref.digest)


def _trust(settings: Config) -> Iterator[Finding]:
    if settings.review.trust is None:
        yield Finding("trust policy", WARN, "review.trust is not set: nobody is trusted, every inference is refused")
        return
    try:
        policy = wire.trust(settings)
    except (ReviewError, OSError) as error:
        yield Finding("trust policy", FAIL, f"{settings.review.trust}: {error}")
        return
    lacking = sorted(set(Role) - {Role.PANELIST} - {role for one in policy.persons.values() for role in one.roles})
    what = f"{len(policy.persons)} persons of {len(policy.organisations)} organisations; {policy.digest[:19]}"
    if lacking:
        yield Finding("trust policy", WARN, f"{what}; nobody is {', '.join(lacking)}")
    else:
        yield Finding("trust policy", OK, what)


def _golden(settings: Config) -> Iterator[Finding]:
    """Each model's golden case, run now, on the device that the service would take."""
    library = Library(settings.data.folder / "models")
    site = {one.model: one.folder for one in settings.golden}
    with Engine(device=settings.engine.device, log=lambda _event, /, **_values: None) as engine:
        for item in library.list():
            if isinstance(item, Broken):
                continue
            check = f"golden case {item.ref.name} {item.ref.version}"
            try:
                model = library.open(item.ref)
                case = golden.case_of(model, site)
                if case is None:
                    yield Finding(check, WARN, "none: nothing tells a changed driver from a sound one; see [[golden]]")
                    continue
                found = golden.attempt(case, model, engine)
            except (ModelError, InferenceError, OSError) as error:
                yield Finding(check, FAIL, str(error))
                continue
            what = f"differs by {found.difference:.6f}, {case.tolerance:.6f} allowed, on {found.device}"
            yield Finding(check, OK if found.matches else FAIL, what)


def _approvals(settings: Config) -> Iterator[Finding]:
    if settings.review.trust is None:
        return
    if not wire.audit_root(settings).exists():
        yield Finding("approvals", WARN, "none recorded: every inference is refused")
        return
    try:
        with wire.offline_of(settings) as site:
            approvals = site.register.approvals()
            standings = site.register.standings(site.now())
            today = site.now().date()
    except (AuditError, ReviewError, OSError) as error:
        yield Finding("approvals", FAIL, str(error))
        return
    if not approvals:
        yield Finding("approvals", WARN, "none recorded: every inference is refused")
    for approval in approvals:
        inside = approval.valid_from <= today <= approval.valid_to
        what = f"{approval.model.name} {approval.model.version}, {approval.valid_from} to {approval.valid_to}"
        yield Finding(f"approval {approval.id}", OK if inside else WARN, what)
    for one in standings:
        why = "" if one.cause is None else f", {one.cause}"
        what = f"{one.state}{why}; {one.model.digest[:19]}"
        yield Finding(f"dossier {one.model.name} {one.model.version}", OK if one.state in RUNNING else WARN, what)


def _incidents(settings: Config) -> Iterator[Finding]:
    if not wire.audit_root(settings).exists():
        return
    try:
        with wire.offline_of(settings) as site:
            open_now = [one for one in Incidents(site.log).all() if one.closed is None]
            late = [(one, duty) for one in open_now for duty in one.overdue(site.now())]
    except (AuditError, ReviewError, OSError) as error:
        yield Finding("incidents", FAIL, str(error))
        return
    yield Finding("incidents", OK, f"{len(open_now)} open")
    for incident, duty in late:
        what = f"{duty.clock} was due at {duty.due}; see `zhiying review incident list`"
        yield Finding(f"incident {incident.id[:8]}", FAIL, what)


def _tls(settings: Config) -> Iterator[Finding]:
    if settings.dicom.tls is None:
        return
    files = settings.dicom.tls.files
    try:
        check(files, wire.now())
        ends = expires_at(files)
    except BridgeError as error:
        yield Finding("DICOM TLS", FAIL, str(error))
        return
    soon = ends - wire.now() < TLS_WARNING
    yield Finding("DICOM TLS", WARN if soon else OK, f"certificates are good until {ends:%Y-%m-%d}")


def _time_stamps(settings: Config) -> Iterator[Finding]:
    site = settings.audit.timestamps
    if site is None:
        return
    try:
        trusted = stamping.authority(site)
    except (ServiceError, OSError) as error:
        yield Finding("time-stamp certificate", FAIL, f"{site.authority}: {error}")
        return
    ends, now = trusted.certificate.not_valid_after_utc, wire.now()
    result = FAIL if ends <= now else WARN if ends - now < TLS_WARNING else OK
    yield Finding("time-stamp certificate", result, f"is good until {ends:%Y-%m-%d}")
    if site.url is None:
        yield Finding("time-stamp authority", OK, "no url: queries travel by `zhiying audit stamp request`")
        return
    try:
        # A real stamp, of nothing that anybody could mistake for ours.
        asked = timestamping.query(PROBE)
        timestamping.verify(PROBE, post(site.url, asked.der), trusted, asked.nonce)
    except ServiceError as error:
        yield Finding("time-stamp authority", FAIL, f"{error.code}: {error}")
    else:
        yield Finding("time-stamp authority", OK, "answers with stamps by the pinned certificate")


def _log_in(settings: Config) -> Iterator[Finding]:
    """Who may use the HTTP port, and what of that somebody should have another look at."""
    http, check = settings.http, "HTTP log-in"
    if log_in.unsaid(http):
        yield Finding(check, FAIL, f"CONFIG_INVALID: {log_in.UNSAID}")
    elif not http.log_in and not log_in.local(http):
        yield Finding(check, WARN, "log_in = false: whoever reaches the port sees studies and orders pulls")
    elif not http.log_in and settings.results.decide_at is not None:
        yield Finding(check, WARN, "none, and decide_at says that others reach the port: set http.log_in = true")
    elif not http.log_in:
        yield Finding(check, OK, "none: only this machine reaches the port, unless a proxy hands requests on")
    elif not settings.operators:
        yield Finding(check, WARN, "wanted, and [[operators]] is empty: nobody orders pulls")
    elif not log_in.local(http):
        yield Finding(check, WARN, "wanted, and tokens cross the network in clear: listen on loopback behind TLS")
    else:
        yield Finding(check, OK, f"wanted; {len(settings.operators)} operators, {len(settings.readers)} readers")


def _ports(settings: Config) -> Iterator[Finding]:
    dicom = settings.dicom
    ports = [("HTTP port", settings.http.host, settings.http.port)]
    if dicom.tls is not None:
        ports.insert(0, ("DICOM TLS port", dicom.host, dicom.tls.port))
    if dicom.plain:
        ports.insert(0, ("DICOM port", dicom.host, dicom.port))
    for name, host, port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                yield Finding(name, WARN, f"{host}:{port}: {error.strerror}; right if the service is running")
            else:
                yield Finding(name, OK, f"{host}:{port} is free")


def _peers(settings: Config) -> Iterator[Finding]:
    if settings.results.to is None:
        yield Finding("results", WARN, "results.to is not set: nobody will see a result")
    for section in settings.peers:
        called = list(_peer(settings, section))
        yield from called
        # One that is not there is one line, not two.
        if section.name == settings.results.to and called[0].result == OK:
            yield from _profile(settings, section)


def _receivers(settings: Config) -> Iterator[Finding]:
    for name, well, what in looking.look(settings):
        yield Finding(f"reports to {name}", OK if well else FAIL, what)


def _peer(settings: Config, section: PeerSection) -> Iterator[Finding]:
    try:
        query.echo(settings.peer(section), settings.dicom.ae_title)
    except BridgeError as error:
        address = f"{section.ae_title}@{section.host}:{section.port}"
        yield Finding(f"peer {section.name}", FAIL, f"{address}: {error}")
    else:
        yield Finding(f"peer {section.name}", OK, "answers C-ECHO")


def _profile(settings: Config, section: PeerSection) -> Iterator[Finding]:
    """What results to this peer need, each negotiated; nothing is sent."""
    peer, check = settings.peer(section), f"peer {section.name}"
    said = settings.results
    wanted = profile.needs(peer, key_images=said.key_images, rejection_notes=said.rejection_notes)
    yield Finding(f"{check} report_groups", OK, f"{peer.report_groups}; which viewers need which: docs/hazards.md")
    yield Finding(f"{check} segmentation", OK, f"{peer.segmentation}; which viewers show which: docs/hazards.md")
    if peer.send is Send.STOW_RS:
        try:
            status = profile.web_answer(peer)
        except BridgeError as error:
            yield Finding(f"{check} STOW-RS", FAIL, str(error))
        else:
            what = (
                f"answers (HTTP {status}); what it takes it says only when a result is sent: STOW-RS has no negotiation"
            )
            yield Finding(f"{check} STOW-RS", WARN, what)
    try:
        lacking = profile.refused(peer, settings.dicom.ae_title, wanted)
    except BridgeError as error:
        yield Finding(f"{check} negotiation", FAIL, str(error))
        return
    for need in wanted:
        syntaxes = " or ".join(need.transfer_syntaxes) or "any uncompressed"
        what = f"{need.sop_class} in {syntaxes}"
        if need in lacking:
            yield Finding(f"{check} {need.kind}", FAIL, f"{profile.NOT_ACCEPTED}: does not accept {what}; {_so(need)}")
        else:
            yield Finding(f"{check} {need.kind}", OK, f"accepts {what}")


def _so(need: profile.Need) -> str:
    """What comes of it that the peer does not accept this."""
    if need.kind in set(KeyImage):
        kind = f"key images of this kind; set results.key_images = false, or take {need.kind} out of it"
        return f"results arrive without {kind}, or allow the class there"
    return {
        "LABELMAP": 'no segmentation will arrive; allow the class there, or set segmentation = "BINARY"',
        "BINARY": "no result whose segments overlap will arrive, as those are no label map; allow the class there",
        "NOTE": "nobody learns what counts no more; set results.rejection_notes = false, or allow the class there",
        "COMMITMENT": "nothing will be committed; set commitment = false, or allow it there",
        "C-FIND": "nothing can be counted or looked for; set counts = false, or allow it there",
    }.get(need.kind, "no result will arrive; allow the class there")
