"""The configuration refuses what it does not know."""

from pathlib import Path

import pytest

from dicom_bridge.tls import TlsFiles
from service.config import load
from service.errors import ConfigInvalid

PEER = '[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'


def _written(folder: Path, text: str) -> Path:
    path = folder / "zhiying.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file() -> None:
    """Without a file the service listens on loopback only, and no approval is trusted."""
    config = load(None)

    assert config.dicom.host == "127.0.0.1"
    assert config.http.host == "127.0.0.1"
    assert config.review.trust is None
    assert config.peers == ()


def test_a_file_is_read(tmp_path: Path) -> None:
    """Every section of the file arrives."""
    text = f'[site]\nid = "jh-first"\nlanguage = "en-US"\n{PEER}counts = true\n[results]\nto = "pacs"\n'

    config = load(_written(tmp_path, text))

    assert config.site.id == "jh-first"
    assert config.peers[0].counts
    assert config.results.to == "pacs"


@pytest.mark.parametrize(
    ("written", "kinds"),
    [
        ("false", ()),
        ("true", ("SC",)),
        ('["GSPS", "KOS"]', ("GSPS", "KOS")),
        ("[]", ()),
        ('["SC"]', ("SC",)),
        ('["SC", "NO_FINDING"]', ("SC", "NO_FINDING")),
    ],
)
def test_key_images_are_chosen_by_kind(tmp_path: Path, written: str, kinds: tuple[str, ...]) -> None:
    """A list of kinds; true stays what it was before there were several."""
    assert load(_written(tmp_path, f"[results]\nkey_images = {written}\n")).results.key_images == kinds


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[sit]\nid = 'a'\n", "sit"),
        ("[site]\nidd = 'a'\n", "site.idd"),
        ("[site]\nid = 'Has Space'\n", "site.id"),
        ("[dicom]\nport = 70000\n", "dicom.port"),
        ("[dicom]\nae_title = 'SEVENTEEN_LETTERS'\n", "dicom.ae_title"),
        ("[assembly]\nquiet_s = 0\n", "assembly.quiet_s"),
        ("[results]\nto = 'nobody'\n", "nobody"),
        ("[results]\nkey_images = ['PDF']\n", "results.key_images"),
        ("[results]\nkey_images = ['KOS', 'KOS']\n", "results.key_images"),
        ("[results]\nkey_images = 'SC'\n", "results.key_images"),
        (PEER + PEER, "same name"),
        ("[review]\nautonomy = 'A9'\n", "review.autonomy"),
        ("[review]\ncare_setting = 'ICU'\n", "review.care_setting"),
        ("[review]\ncare_setting = '*'\n", "review.care_setting"),
        ("[review]\nreading_mode = 'SECOND_READER'\n", "review.reading_mode"),
        ("[[review.evidence]]\ntoken = 'pia:P-1'\n", "until"),
        ("[[review.evidence]]\ntoken = 'registration:1'\n", "until"),
        ("[[review.evidence]]\ntoken = 'opt_out_check'\nuntil = 2027-05-31\n", "review.evidence.0"),
        ("[[review.evidence]]\ntoken = 'notice:1'\nuntil = 2027-05-31\n", "review.evidence.0"),
        ("[[review.evidence]]\ntoken = 'pia:P-1'\nuntil = 'soon'\n", "review.evidence.0.until"),
        ("no toml at all", "not TOML"),
        ("[[golden]]\nmodel = 'm'\nfolder = 'a'\n" * 2, "two golden cases"),
        ("[[readers]]\nname = 'test-li'\nrole = 'OPS'\n", "readers.0.role"),
        ("[[operators]]\nname = 'test-eye'\nrole = 'RADIOLOGIST'\n", "operators.0.role"),
        ("[http]\nlog_in = 'perhaps'\n", "http.log_in"),
        ("[dicom]\nplain = false\n", "nothing would listen"),
        ("[dicom]\ninstance_bytes_max = 1000\n", "dicom.instance_bytes_max"),
        (PEER + "tls = true\n", "peer 'pacs' wants tls"),
        (PEER + "send = 'FTP'\n", "peers.0.send"),
        (PEER + "report_groups = 'planar'\n", "peers.0.report_groups"),
        (PEER + "segmentation = 'FRACTIONAL'\n", "peers.0.segmentation"),
        (PEER + "segmentation = 'LABELMAP'\n", 'needs report_groups = "PLANAR"'),
        (PEER.replace("127.0.0.1", "no host"), "peer 'pacs': the host"),
        ("[[rules]]\nname = 'a'\nmodel = 'm'\nslices = [9, 1]\n", "rules"),
        ("[[rules]]\nname = 'a'\nmodel = 'm'\npart = 'ECHO=1'\n", "rule a: part"),
        (PEER + "assumed_charset = 'KLINGON'\n", "KLINGON"),
        (2 * "[[rules]]\nname = 'a'\nmodel = 'm'\n", "same name"),
        ("[[rules]]\nname = 'a'\nmodel = 'm'\nregex = '.*'\n", "rules.0.regex"),
        (PEER + "send = 'STOW-RS'\n", "peer 'pacs': STOW-RS needs the peer's web root"),
        (PEER + "retrieve = 'ORTHANC'\n", "root of its REST API"),
        (PEER + "web = 'ftp://pacs'\n", "http or https"),
        (PEER + "web = 'http://user:secret@pacs'\n", "without a user"),
        (PEER + "addresses = ['192.0.2.300']\n", "no network"),
        (PEER + "certificate = 'AB:CD'\n", "64 lower-case"),
        ("[[standing_queries]]\npeer = 'nobody'\nmodalities = ['CT']\n", "nobody"),
        (PEER + "[[standing_queries]]\npeer = 'pacs'\nmodalities = []\n", "standing_queries.0.modalities"),
        ("[retention]\npixels_h = -1\n", "retention.pixels_h"),
        ("[results]\nkeep_trying_days = 0\n", "results.keep_trying_days"),
    ],
)
def test_a_fault_names_its_place(tmp_path: Path, text: str, named: str) -> None:
    """A wrong key or value is refused with the place in the message."""
    with pytest.raises(ConfigInvalid) as caught:
        load(_written(tmp_path, text))

    assert named in str(caught.value)
    assert caught.value.code == "CONFIG_INVALID"


HOLDERS = (
    ('[[readers]]\nrole = "RADIOLOGIST"\ntraining = "sha256:' + "7" * 64 + '"\n'),
    '[[operators]]\nrole = "VIEWER"\n',
    '[[operators]]\nrole = "OPERATOR"\n',
)


@pytest.mark.parametrize("first", HOLDERS)
@pytest.mark.parametrize("last", HOLDERS)
def test_names_and_tokens_are_one_persons(tmp_path: Path, first: str, last: str) -> None:
    """Of readers and operators together: the log names them by one name, and a token says who somebody is."""

    def written(names: str, digests: str) -> Path:
        holders = zip((first, last), names, digests, strict=True)
        text = [f'{one}name = "{name}"\ntoken_sha256 = "{digest * 64}"\n' for one, name, digest in holders]
        return _written(tmp_path, "".join(text))

    config = load(written("ab", "12"))
    assert len(config.readers) + len(config.operators) == 2
    for names, digests, wrong in (("aa", "12", "same name"), ("ab", "11", "same token")):
        with pytest.raises(ConfigInvalid, match=wrong) as refused:
            load(written(names, digests))
        assert "1" * 64 not in str(refused.value)


def test_a_token_in_place_of_its_digest_is_not_repeated(tmp_path: Path) -> None:
    """Whoever pastes the token itself into the file does not find it in a terminal's history, or a ticket."""
    secret = "S" * 40
    with pytest.raises(ConfigInvalid, match=r"operators\.0\.token_sha256") as refused:
        load(_written(tmp_path, f'{HOLDERS[1]}name = "test-eye"\ntoken_sha256 = "{secret}"\n'))
    assert secret not in str(refused.value)


def test_the_profile_is_the_receiving_peer_s(tmp_path: Path) -> None:
    """Of several peers the one that results go to decides; where none does, the default."""
    other = PEER.replace('"pacs"', '"older"') + 'report_groups = "PLANAR"\nsegmentation = "LABELMAP"\n'
    for to, groups, segmentation in (
        ("pacs", "VOLUMETRIC", "BINARY"),
        ("older", "PLANAR", "LABELMAP"),
        (None, "VOLUMETRIC", "BINARY"),
    ):
        results = "" if to is None else f'[results]\nto = "{to}"\n'
        config = load(_written(tmp_path, PEER + other + results))
        assert (config.report_groups, config.segmentation) == (groups, segmentation)
        assert config.peer(config.peers[1]).segmentation == "LABELMAP"
        assert config.peer(config.peers[1]).report_groups == "PLANAR"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that was named but is not there never means 'defaults'."""
    with pytest.raises(ConfigInvalid, match="no file"):
        load(tmp_path / "absent.toml")


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_a_postgresql_url_names_the_driver_that_is_installed(tmp_path: Path, scheme: str) -> None:
    """However the URL is written, the table of runs and the workflows get the same one, for psycopg 3."""
    given = f"{scheme}://zhiying:s%40cret@db.example:5433/zhiying?sslmode=require"

    read = load(_written(tmp_path, f'[database]\nurl = "{given}"\n')).database.url

    assert read == "postgresql+psycopg://zhiying:s%40cret@db.example:5433/zhiying?sslmode=require"


@pytest.mark.parametrize(
    "url", ["mysql://u:s3cret@h/d", "s3cret", "postgresql://u:s3cret@h", "postgresql://u:s3cret@h:x/d"]
)
def test_another_database_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    """Another server, no server or no name: refused when the file is read, and the message holds no secret."""
    with pytest.raises(ConfigInvalid) as caught:
        load(_written(tmp_path, f'[database]\nurl = "{url}"\n'))

    assert "database.url" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_documented_file_is_a_valid_one(tmp_path: Path) -> None:
    """The example that hospital IT copies is read without a complaint, and names every section there is."""
    page = Path(__file__).resolve().parents[3] / "docs" / "running.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]

    config = load(_written(tmp_path, example))

    assert config.results.to == "pacs"
    assert set(type(config).model_fields) == {line.strip("[]").partition(".")[0] for line in _headers(example)}


def _headers(text: str) -> set[str]:
    return {line.split("#")[0].strip() for line in text.splitlines() if line.startswith("[")}


def test_a_peer_is_what_the_bridge_calls(tmp_path: Path) -> None:
    """A peer's section becomes the bridge's Peer, with our TLS files only where it wants TLS."""
    tls = '[dicom.tls]\ncertificate = "c.pem"\nkey = "k.pem"\nauthority = "a.pem"\n'
    other = PEER.replace('"pacs"', '"ris"') + "tls = true\ncommitment = true\naddresses = ['192.0.2.0/24']\n"

    config = load(_written(tmp_path, tls + PEER + other))
    plain, secured = (config.peer(section) for section in config.peers)

    assert (plain.name, plain.tls, plain.commitment) == ("pacs", None, False)
    assert secured.tls == TlsFiles(Path("c.pem"), Path("k.pem"), Path("a.pem"))
    assert (secured.commitment, secured.addresses) == (True, ("192.0.2.0/24",))


def test_evidence_is_read_from_the_file(tmp_path: Path) -> None:
    """Tokens and their last days are what the file says; a rule for minors may do without a day."""
    path = tmp_path / "z.toml"
    path.write_text(
        "[review]\ncare_setting = 'IP'\nreading_mode = 'triage'\n"
        "[[review.evidence]]\ntoken = 'registration:国械注准20253210001'\nuntil = 2027-05-31\n"
        "[[review.evidence]]\ntoken = 'minors:R-1'\n",
        encoding="utf-8",
    )
    review = load(path).review
    assert (review.care_setting, review.reading_mode) == ("IP", "triage")
    assert [(one.token, str(one.until)) for one in review.evidence] == [
        ("registration:国械注准20253210001", "2027-05-31"),
        ("minors:R-1", "None"),
    ]
