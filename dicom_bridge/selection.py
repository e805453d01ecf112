"""Which series of a study goes to which model? The manifest's predicates and the site's rules, asked one by one. Pure.

The manifest is what a model is made for: all of it must hold. Rules restrict further and order; without any, the
manifests alone decide. Each verdict names the predicate that decided, so that a person can see why a series was not
used, or which rule took it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.rules import Predicate, Rule, SeriesSummary, ask, criteria_of
from dicom_bridge.spool_index import Instance
from models.manifest import Manifest
from models.ref import ModelRef

NO_MODEL_FITS: Final = "NO_MODEL_FITS"
"""Code of a study of which no series fits any model."""
NO_RULE_MATCHES: Final = "NO_RULE_MATCHES"
"""Code of a study of which no series meets a rule and the manifest of its model."""

MANIFEST: Final = "manifest"
RULE: Final = "rule"
SERIES: Final = "series"

# Asked once: what a series is does not depend on who asks.
_OF_THE_SERIES: Final = frozenset({Predicate.KIND, Predicate.GEOMETRY})
_LEFT_TO_THE_LOAD: Final = frozenset(
    {Predicate.GEOMETRY, Predicate.PIXEL_SPACING, Predicate.SLICE_SPACING, Predicate.ONE_VOLUME}
)
"""A series that is stopped by one of these alone is the one that was meant: reading it refuses it with the exact code
and numbers, where passing it over would say less."""
_OF_THE_INDEX: Final = frozenset(
    {
        *(Predicate.MODALITY, Predicate.SOP_CLASS, Predicate.IMAGE_TYPE, Predicate.BODY_PART),
        *(Predicate.DESCRIPTION, Predicate.PROTOCOL, Predicate.SENDER, Predicate.CONTRAST),
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One volume against one model, under one rule ("" without rules); `decided_by` is the first predicate that said
    no, None when it fits. `observed` and `wanted` are for the eyes of the site: they may quote a description.

    `asked_by` is whose predicate decided: "rule", "manifest", or "series" for what the images are. `model` is None
    where the rule's model is not installed.
    """

    series_uid: str
    model: ModelRef | None
    decided_by: Predicate | None
    part: str = ""
    rule: str = ""
    observed: str = ""
    wanted: str = ""
    asked_by: str = ""

    @property
    def fits(self) -> bool:
        """Whether every predicate said yes."""
        return self.decided_by is None


@dataclass(frozen=True, slots=True)
class Choice:
    """The volume to run (`part` of the series, `split.Part.id`), the model to run on it, and the rule that said so."""

    series_uid: str
    model: ModelRef
    part: str = ""
    rule: str = ""
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class NoFit:
    """No series fits any model or rule; `verdicts` say which predicate decided for each."""

    verdicts: tuple[Verdict, ...]
    code: str = NO_MODEL_FITS

    @property
    def farthest(self) -> Verdict | None:
        """The verdict on the series that came farthest: what a person would look at first. None without any."""
        order = list(Predicate)
        stopped = [verdict for verdict in self.verdicts if verdict.decided_by is not None]
        return max(stopped, key=lambda v: order.index(v.decided_by or Predicate.MODEL), default=None)


def judge(series: SeriesSummary, model: ModelRef, manifest: Manifest, rule: Rule | None = None) -> Verdict:
    """Ask the predicates in order, the manifest's and the rule's; the first "no" decides."""
    wanted = criteria_of(manifest.input)
    verdict = Verdict(series.series_uid, model, None, part=series.part, rule=rule.name if rule is not None else "")
    for predicate in Predicate:
        answer = ask(predicate, series, wanted)
        if answer is not None and answer.holds is False:
            by = SERIES if predicate in _OF_THE_SERIES else MANIFEST
            return replace(verdict, decided_by=predicate, observed=answer.observed, wanted=answer.wanted, asked_by=by)
        if rule is None or predicate in _OF_THE_SERIES:
            continue
        answer = ask(predicate, series, rule)
        if answer is not None and not answer.holds:
            return replace(verdict, decided_by=predicate, observed=answer.observed, wanted=answer.wanted, asked_by=RULE)
    return verdict


def explain(
    series: Sequence[SeriesSummary], manifests: Mapping[ModelRef, Manifest], rules: Sequence[Rule] = ()
) -> tuple[Verdict, ...]:
    """Judge every volume against every model: rules in their order, models by name, version and digest, then series.

    The most slices first (of two that fit, the finer one), then the lowest series number, then the UID and the place
    in the series: never the order in which they arrived. Volumes of one series that fit alike are all stopped by
    ONE_VOLUME.
    """
    ordered = sorted(series, key=lambda one: (-one.count, one.series_number or 0, one.series_uid, one.ordinal))
    models = sorted(manifests, key=lambda ref: (ref.name, ref.version, ref.digest))
    verdicts: list[Verdict] = []
    for rule in rules or (None,):
        named = [ref for ref in models if rule is None or rule.model in (ref.name, f"{ref.name}/{ref.version}")]
        for model in named:
            judged = [judge(one, model, manifests[model], rule) for one in ordered]
            verdicts += _one_volume(judged, ordered)
        if rule is not None and not named:
            verdicts += [_not_installed(one, rule) for one in ordered]
    return tuple(verdicts)


def choose(
    series: Sequence[SeriesSummary], manifests: Mapping[ModelRef, Manifest], rules: Sequence[Rule] = ()
) -> Choice | NoFit:
    """The first of `choose_all`, or all verdicts when nothing fits."""
    found = choose_all(series, manifests, rules)
    return found if isinstance(found, NoFit) else found[0]


def choose_all(
    series: Sequence[SeriesSummary], manifests: Mapping[ModelRef, Manifest], rules: Sequence[Rule] = ()
) -> tuple[Choice, ...] | NoFit:
    """Return each model's first pair that fits, in the order of `explain`, or all verdicts when none does.

    Of rules one that is `final`, and takes a series, is the last that is asked. Where nothing fits, the first series
    that only its geometry, its spacing or its several volumes stop is returned all the same: `volume.build` and
    `inference.checks.fit` refuse it, each with its own code.
    """
    verdicts = explain(series, manifests, rules)
    named = {rule.name: rule for rule in rules}
    meant = [v for v in verdicts if v.decided_by in _LEFT_TO_THE_LOAD and v.asked_by != RULE]
    found: dict[ModelRef, Choice] = {}
    last: Rule | None = None
    for verdict in [v for v in verdicts if v.fits] or meant[:1]:
        if last is not None and verdict.rule != last.name:
            break
        rule = named.get(verdict.rule)
        last = rule if rule is not None and rule.final else None
        if verdict.model is None or verdict.model in found:
            continue
        # Nobody has said which: the load is not told one either, and refuses.
        part = "" if verdict.decided_by is Predicate.ONE_VOLUME else verdict.part
        urgent = rule is not None and rule.urgent
        found[verdict.model] = Choice(verdict.series_uid, verdict.model, part, verdict.rule, urgent)
    return tuple(found.values()) or NoFit(verdicts, NO_RULE_MATCHES if rules else NO_MODEL_FITS)


def urgent(instances: Sequence[Instance], rules: Sequence[Rule]) -> bool:
    """Whether an urgent rule may concern a study, as far as the index knows: it is asked before anything is read.

    What the index does not know counts as met, so a study may overtake the queue that needed not, never the reverse.
    """
    pressing = [rule for rule in rules if rule.urgent]
    return bool(pressing) and any(_may_meet(one, rule) for one in summarise(instances) for rule in pressing)


def _may_meet(series: SeriesSummary, rule: Rule) -> bool:
    answers = [ask(predicate, series, rule) for predicate in _OF_THE_INDEX]
    # Text that the index could not read is empty there; what was observed and is wrong is wrong.
    return not any(answer is not None and answer.holds is False and answer.observed for answer in answers)


def _one_volume(judged: Sequence[Verdict], ordered: Sequence[SeriesSummary]) -> list[Verdict]:
    fitting = Counter(verdict.series_uid for verdict in judged if verdict.fits)
    out = []
    for verdict, one in zip(judged, ordered, strict=True):
        alike = fitting[verdict.series_uid]
        if not verdict.fits or alike == 1:
            out.append(verdict)
            continue
        seen = f"{alike} volumes that fit alike, one of them {one.label}"
        out.append(
            replace(verdict, decided_by=Predicate.ONE_VOLUME, observed=seen, wanted="one volume", asked_by=SERIES)
        )
    return out


def _not_installed(series: SeriesSummary, rule: Rule) -> Verdict:
    return Verdict(
        series_uid=series.series_uid,
        model=None,
        decided_by=Predicate.MODEL,
        part=series.part,
        rule=rule.name,
        observed="not installed",
        wanted=rule.model,
        asked_by=RULE,
    )


def summarise(instances: Sequence[Instance]) -> tuple[SeriesSummary, ...]:
    """Summarise the held instances of a study by series, ordered by UID; results (SR, SEG ...) are left out.

    Reads no file: what the index does not hold is not known.
    """
    series: dict[str, list[Instance]] = {}
    for instance in instances:
        if instance.modality not in RESULT_MODALITIES:
            series.setdefault(instance.series_uid, []).append(instance)
    return tuple(
        SeriesSummary(
            series_uid=uid,
            modality=one_of({member.modality for member in members}),
            sop_class=one_of({member.sop_class for member in members}),
            body_part=one_of({member.body_part for member in members}),
            description=one_of({member.description for member in members}),
            image_types=frozenset(member.image_type for member in members),
            series_number=min((m.series_number for m in members if m.series_number is not None), default=None),
            count=sum(member.frames for member in members if member.pixels),
            protocol=one_of({member.protocol for member in members}),
            contrast=frozenset(bool(member.contrast) for member in members),
            senders=frozenset(member.sender for member in members),
        )
        for uid, members in sorted(series.items())
    )


def one_of(values: set[str]) -> str:
    """Return the one value, or "" when they differ: what is not the same throughout is not known."""
    return next(iter(values)) if len(values) == 1 else ""
