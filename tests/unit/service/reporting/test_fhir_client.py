"""The FHIR client: what each behaviour of a server means, and that nothing goes anywhere else."""

import http.server
import os
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dicom_bridge.tls import server_context
from service.reporting.answer import Answer, Fate
from service.reporting.fhir_client import FhirClient, Server
from tests.simulators import fhir_server
from tests.simulators.certificates import Authority
from tests.simulators.fhir_server import Record
from tests.simulators.site import REPOSITORY

CONTENT = b'{"resourceType":"Bundle","type":"transaction","entry":[]}'

MEANS: dict[int | str, tuple[Fate, str]] = {
    200: (Fate.DELIVERED, "HTTP_200"),
    201: (Fate.DELIVERED, "HTTP_201"),
    fhir_server.EMPTY: (Fate.DELIVERED, "HTTP_204"),
    **{status: (Fate.REFUSED, f"HTTP_{status}") for status in (400, 401, 403, 404, 409, 412, 422)},
    **{status: (Fate.LATER, f"HTTP_{status}") for status in (301, 302, 307, 408, 429, 500, 502, 503)},
    fhir_server.PAGE: (Fate.LATER, "FHIR_ANSWER_INVALID"),
    fhir_server.FLOOD: (Fate.LATER, "FHIR_ANSWER_INVALID"),
    fhir_server.RESET: (Fate.LATER, "FHIR_UNREACHABLE"),
    fhir_server.CUT: (Fate.LATER, "FHIR_UNREACHABLE"),
}


@pytest.mark.parametrize("does", MEANS, ids=str)
def test_what_a_server_does_is_what_it_means(does: int | str) -> None:
    """Refused is only what would be refused again; delivered only what FHIR itself said."""
    with Record(does) as record:
        assert FhirClient(Server(record.url, 5)).tell(CONTENT) == Answer(*MEANS[does])
        assert record.bundles == [CONTENT]
        assert record.paths == ["/fhir"]


def test_a_server_that_says_nothing_is_waited_for_only_so_long() -> None:
    """The time for the answer ends it."""
    with Record(fhir_server.HANG) as record:
        assert FhirClient(Server(record.url, 0.2)).tell(CONTENT) == Answer(Fate.LATER, "FHIR_NO_ANSWER")


def test_nobody_listens() -> None:
    """A refused connection is tried again later."""
    with Record() as record:
        pass
    assert FhirClient(Server(record.url, 2)).tell(CONTENT) == Answer(Fate.LATER, "FHIR_UNREACHABLE")


def test_a_redirect_is_not_followed() -> None:
    """Nothing leaves to an address that the configuration does not name, whoever asks for it (I8)."""
    with Record() as other, Record(307) as record:
        record.location = other.url
        assert FhirClient(Server(record.url, 2)).tell(CONTENT).fate is Fate.LATER
        assert other.bundles == []


TELL = f"""
import sys
from service.reporting.fhir_client import FhirClient, Server
print(FhirClient(Server(sys.argv[1], 5)).tell({CONTENT!r}).fate)
"""


def test_no_proxy_of_the_environment() -> None:
    """What a shell has set is no configuration of ours."""
    with Record() as proxy, Record() as record:
        names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
        env = os.environ | dict.fromkeys(names, f"http://{fhir_server.LOOPBACK}:{proxy.port}")
        command = [sys.executable, "-c", TELL, record.url]
        done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "DELIVERED"
        assert (proxy.bundles, record.bundles) == ([], [CONTENT])


def test_a_token_is_read_each_time(tmp_path: Path) -> None:
    """Renewed without a restart; where it is gone, nothing is told without it."""
    token = tmp_path / "token"
    client = None
    with Record() as record:
        client = FhirClient(Server(record.url, 2, token=token))
        assert client.tell(CONTENT) == Answer(Fate.LATER, "FHIR_TOKEN_UNREADABLE")
        for text in ("one", "two"):
            token.write_text(f"{text}\n", encoding="ascii")
            assert client.tell(CONTENT).fate is Fate.DELIVERED
        assert [one["Authorization"] for one in record.headers] == ["Bearer one", "Bearer two"]
        assert client.metadata() == 200
        assert record.paths[-1] == "/fhir/metadata"


def test_mutual_tls(tmp_path: Path) -> None:
    """Both show a certificate of the site's authority; to whoever has another nothing is told."""
    papers, stranger = Authority(tmp_path / "papers"), Authority(tmp_path / "others")
    ours, theirs = papers.issue("zhiying"), papers.issue("record")
    got: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(http.server.HTTPServer):
        def handle_error(self, *_: object) -> None:
            """Who is not let in is what is tested."""

        def get_request(self) -> tuple[ssl.SSLSocket, str]:
            raw, address = super().get_request()
            return server_context(theirs).wrap_socket(raw, server_side=True), address

    server = Quiet((fhir_server.LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    url = f"https://{fhir_server.LOOPBACK}:{server.server_address[1]}/fhir"
    try:
        assert FhirClient(Server(url, 5, ours)).tell(CONTENT) == Answer(Fate.DELIVERED, "HTTP_204")
        for server_as_seen in (
            Server(url, 5),
            Server(url, 5, stranger.issue("zhiying")),
            Server(url, 5, ours, "0" * 64),
        ):
            assert FhirClient(server_as_seen).tell(CONTENT) == Answer(Fate.LATER, "FHIR_UNREACHABLE")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert got == [CONTENT]
