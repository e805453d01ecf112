"""The trust policy: read to the letter, or not at all."""

import itertools

import pytest

from audit.note import Signer
from ethics_review.errors import TrustInvalid
from ethics_review.parties import NOBODY, Trust, parse_trust
from ethics_review.states import Party, Role
from tests.simulators.parties import CENTRE, HOSPITAL, PEOPLE, Parties

PARTIES = Parties()
KEY = Signer.generate("somebody.example").vkey
ORGANISATIONS = "organisation h hospital\norganisation v vendor\norganisation r reviewer\norganisation p panel\n"


def refused(text: str) -> tuple[str, int]:
    """Code and line of the refusal."""
    with pytest.raises(TrustInvalid) as caught:
        parse_trust(text)
    return caught.value.code, caught.value.line


def one(roles: str, organisation: str = "h") -> str:
    """A policy with one person of these roles."""
    return f"{ORGANISATIONS}person {KEY} {organisation} {roles}\n"


def test_a_whole_policy() -> None:
    """Everybody has the organisation, kind, roles and key of their line; the numbers are those that were given."""
    more = "criteria A/1\ncriteria B/2 # later\nsigners 3\npanel 7\nfollow-up 300 100\nminors-under 16"
    trust = PARTIES.trust(more=more)
    assert len(trust.persons) == len(PEOPLE)
    for name, (organisation, roles) in PEOPLE.items():
        person = trust.persons[f"{name}.example"]
        assert (person.organisation, person.roles) == (organisation, frozenset(roles))
        assert trust.verifiers[person.name] == PARTIES.signers[name].verifier
    assert trust.organisations[HOSPITAL] is trust.persons["owner.example"].party is Party.HOSPITAL
    assert trust.criteria == {"A/1", "B/2"}
    assert (trust.signers, trust.panel, trust.follow_up_days, trust.minors_under) == (3, 7, (300, 100), 16)


def test_what_is_not_said_is_what_the_law_says() -> None:
    """Two reviewers, five members, 365 and 182 days, 14 years; and nobody where nothing is configured."""
    for trust in (PARTIES.trust(), NOBODY):
        assert (trust.signers, trust.panel, trust.follow_up_days, trust.minors_under) == (2, 5, (365, 182), 14)
        assert trust.criteria == frozenset()
    assert NOBODY.persons == NOBODY.organisations == {}
    assert NOBODY.keys == ()


def test_the_digest_is_of_the_text() -> None:
    """Any change of the file is another policy, also one that says the same."""
    text = PARTIES.policy()
    assert parse_trust(text) == parse_trust(text)
    assert parse_trust(text).digest != parse_trust(text + "# remark\n").digest


def test_names_that_nobody_has_are_left_out() -> None:
    """People are found by the names of their keys, in the order asked."""
    trust: Trust = PARTIES.trust()
    found = trust.people(["owner.example", "nobody", "maker.example"])
    assert [person.name for person in found] == ["owner.example", "maker.example"]
    assert trust.persons["reviewer-1.example"].organisation == CENTRE


@pytest.mark.parametrize(
    "line",
    [
        "rubbish",
        "organisation",
        "organisation h",
        "organisation h clinic",
        "organisation h hospital more",
        "organisation -h hospital",
        "organisation x hospital",  # named before
        f"person {KEY} x",
        f"person {KEY} x NURSE",
        f"person {KEY} x OPS,",
        f"person {KEY} x OPS,OPS",
        f"person {KEY} x OPS, RADIOLOGIST",
        f"person {KEY}A x OPS",
        "person key x OPS",
        "criteria",
        "criteria A B",
        "criteria " + "x" * 65,
        "signers 1",
        "signers two",
        "signers 02",
        "signers 101",
        "panel 4",
        "follow-up 365",
        "follow-up 366 182",
        "follow-up 365 183",
        "follow-up 0 182",
        "minors-under 13",
        "minors-under 19",
        "Signers 2",
        "signers\x002",
        "organisation h\u200b hospital",
    ],
    ids=lambda line: line.replace(KEY, "KEY"),
)
def test_a_line_that_is_none_is_named(line: str) -> None:
    """No line is passed over, and none is weaker than the default."""
    assert refused(f"# parties\n\norganisation x hospital\n{line}\n") == ("TRUST_INVALID", 4)


@pytest.mark.parametrize("line", ["criteria A", "signers 2", "panel 5", "follow-up 365 182", "minors-under 14"])
def test_nothing_is_said_twice(line: str) -> None:
    """Two answers to one question are none."""
    assert refused(f"{line}\n{line}\n") == ("TRUST_INVALID", 2)


def test_one_key_is_one_person() -> None:
    """Neither the key nor the name stands twice, under whatever name and role."""
    signer = Signer.generate("a.example")
    first = f"{ORGANISATIONS}person {signer.vkey} h OPS\n"
    assert refused(f"{first}person {signer.named('b.example').vkey} h RADIOLOGIST\n") == ("KEY_TWICE", 6)
    assert refused(f"{first}person {Signer.generate('a.example').vkey} h RADIOLOGIST\n") == ("KEY_TWICE", 6)


def test_an_organisation_is_named_before_its_people() -> None:
    """Of an organisation that no line names there is nobody."""
    assert refused(f"person {KEY} h OPS\norganisation h hospital\n") == ("ORGANISATION_UNKNOWN", 1)


# ethics.md, section b: {developer, approver, ops, audit-admin, reviewer} pairwise; a system admin can never approve.
GROUPS = {
    "DEVELOPER": "developer",
    "CLINICAL_OWNER": "approver",
    "SAFETY_OFFICER": "approver",
    "OPS": "ops",
    "REVIEWER": "reviewer",
    "PANELIST": "reviewer",
}
ADMINS = {"AUDIT_ADMIN", "SYSTEM_ADMIN"}
IN_HOSPITAL = set(Role) - {Role.REVIEWER, Role.PANELIST}


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(sorted(IN_HOSPITAL), 2)])
def test_roles_that_exclude_each_other_do_not_load(first: str, second: str) -> None:
    """Every pair of roles that people of a hospital have, in both orders."""
    apart = {GROUPS.get(first), GROUPS.get(second)}
    excluded = (None not in apart and len(apart) == 2) or bool(ADMINS & {first, second})
    for roles in (f"{first},{second}", f"{second},{first}"):
        if excluded:
            assert refused(one(roles)) == ("ROLES_EXCLUDED", 5)
        else:
            assert parse_trust(one(roles)).persons["somebody.example"].roles == {first, second}


@pytest.mark.parametrize("role", sorted(Role))
@pytest.mark.parametrize("organisation", ["h", "v", "r", "p"])
def test_roles_have_their_organisations(role: str, organisation: str) -> None:
    """A vendor has no clinical owner, and a hospital no reviewer."""
    homes = {"DEVELOPER": "hv", "REVIEWER": "r", "PANELIST": "rp"}
    if organisation in homes.get(role, "h"):
        assert parse_trust(one(role, organisation)).persons["somebody.example"].roles == {role}
    else:
        assert refused(one(role, organisation)) == ("TRUST_INVALID", 5)
