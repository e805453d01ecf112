"""zhiying review opt-out: a patient wants no AI, or wants it again. The id is neither stored nor shown."""

from typing import Annotated

import typer

from dicom_bridge.patient import Patient
from ethics_review.opt_out import Choice, OptOuts
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused
from service.permitting import names_to_write


def opt_out(
    patient_id: Annotated[
        str,
        typer.Option(prompt="Patient ID", hide_input=True, help="As the images have it; left out, it is asked for."),
    ],
    issuer: Annotated[str, typer.Option(help="Issuer of Patient ID. Left out: the id counts whoever issued it.")] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="The patient wants AI again.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Record that a patient wants no AI. It holds from the next call on; no restart."""
    with told(), wire.offline(config) as site:
        patient = Patient(patient_id.strip(), issuer.strip())
        if not patient.id:
            raise CommandRefused("a patient id is wanted")
        choice = Choice.WITHDRAWN if withdraw else Choice.OPTED_OUT
        said = OptOuts(site.log.entries())
        names = names_to_write(wire.pseudonyms(wire.settings(config)), patient)
        drafts = [said.draft(name, choice) for name in names]
        for draft in drafts:
            if draft is not None:
                site.log.append(draft)
        new = any(draft is not None for draft in drafts)
        row = {"patient": names[0], "choice": choice.value, "recorded": "now" if new else "before"}
        show(row, as_json=as_json, title="opt-out", rows=[row])
