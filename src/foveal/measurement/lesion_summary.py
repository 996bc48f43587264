"""What a rule makes of the lesions in one photograph: for research only, never a diagnosis or a grade.

The rule follows the steps of the International Clinical Diabetic Retinopathy severity scale (Wilkinson et
al., Ophthalmology 110(9), 2003) as far as lesions in one photograph can carry it.
"""

from typing import Literal, NamedTuple

import numpy as np

from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import MissingError
from foveal.measurement.lesion_columns import LesionColumn
from foveal.measurement.lesion_quadrants import QUADRANTS, LesionQuadrants
from foveal.measurement.lesions import Lesions
from foveal.pages import NOTICE
from foveal.scans.synthetic import LESION_KINDS

MANY_HAEMORRHAGES = 20  # in each quadrant; more of them meet the first part of the 4-2-1 rule
LEAST_SEEN = 0.1  # of the field; a quadrant with less is hardly seen
LEAST_COMPLETE = 0.75  # of the field's circle; a field with less is cut off

NO_LESION = "no lesion found"
ONLY_MICROANEURYSMS = "microaneurysms only"
MORE = "more than microaneurysms"
MANY = "more than 20 haemorrhages in each quadrant"
RULE_VALUES = (NO_LESION, ONLY_MICROANEURYSMS, MORE, MANY)

_NOT_SEEN = (
    "Venous beading, intraretinal microvascular abnormalities, new vessels and the retina outside this "
    "photograph are not looked at, and preretinal bleeding is not told apart: more severe disease is not "
    "ruled out."
)

_RULE_COLUMNS = (
    LesionColumn(
        "lesion_rule_summary",
        "Rule summary (research only)",
        "",
        "Research only, not a diagnosis: the furthest step that the lesions found meet of "
        + ", ".join(f"'{value}'" for value in RULE_VALUES)
        + "; after the steps of the International Clinical Diabetic Retinopathy severity scale (Wilkinson et "
        "al., Ophthalmology 110(9), 2003), of which one photograph's lesions can decide only a part.",
    ),
    LesionColumn(
        "lesion_rule_basis",
        "Basis of the rule summary (research only)",
        "",
        "What the rule summary was derived from, why it is withheld, and what cannot be seen.",
    ),
)


class RuleSummary(NamedTuple):
    """What the rule says.

    Attributes:
        value: of `RULE_VALUES`; None where it is withheld.
        basis: sentences: what it was derived from, or why it is withheld, and what cannot be seen.
    """

    value: str | None
    basis: str


def rule_columns() -> list[LesionColumn]:
    """Columns of a table for the value and the basis of a rule summary, both text."""
    return list(_RULE_COLUMNS)


def rule_summary(
    lesions: Lesions, eye: Eye, *, quality: Literal["good", "usable", "reject"] | None = None
) -> RuleSummary:
    """Summarise the lesions of one photograph by rule; for research only.

    Args:
        lesions: found in the eye's photograph.
        eye: its field and landmarks; without landmarks, haemorrhages are not counted by quadrant.
        quality: of the photograph, where it is known. The summary of one to reject is withheld.

    Raises:
        ValueError: the lesions are of a photograph of another size, or `quality` is not known.
    """
    if quality not in (None, "good", "usable", "reject"):
        raise ValueError(f"quality must be 'good', 'usable', 'reject' or None, got {quality!r}")
    quadrants = LesionQuadrants(lesions, eye)
    if quality == "reject":
        return RuleSummary(None, f"Withheld: the photograph's quality is too low to rely on. {NOTICE}")
    counts = {name: int(np.count_nonzero(lesions.are(name))) for name in lesions.names}
    lacking = [_words(name) for name in LESION_KINDS if name not in counts]
    many, told = _many_haemorrhages(lesions, quadrants)
    found = "Found: " + ", ".join(f"{count} {_words(name)}" for name, count in counts.items()) + "."
    remarks = [found, told, *_remarks(eye, quality, lacking), _NOT_SEEN, NOTICE]
    value: str | None
    if many:
        value = MANY
    elif any(count for name, count in counts.items() if name != "microaneurysms"):
        value = MORE
    elif lacking:
        value = None
        remarks.insert(0, "Withheld: not every kind of lesion was looked for.")
    else:
        value = ONLY_MICROANEURYSMS if counts["microaneurysms"] else NO_LESION
    return RuleSummary(value, " ".join(remarks))


def _many_haemorrhages(lesions: Lesions, quadrants: LesionQuadrants) -> tuple[bool, str]:
    """Whether there are many haemorrhages in each quadrant, and a sentence that says so."""
    rule = f"More than {MANY_HAEMORRHAGES} haemorrhages in each quadrant about the optic disc"
    if "haemorrhages" not in lesions.names:
        return False, f"{rule}: not known."
    chosen = lesions.are("haemorrhages")
    try:
        seen = quadrants.visible
        counts = {name: quadrants.count(name, chosen) if seen[name] else 0 for name in QUADRANTS}
    except MissingError as reason:
        if np.count_nonzero(chosen) <= len(QUADRANTS) * MANY_HAEMORRHAGES:
            return False, f"{rule}: no, there are too few."
        return False, f"{rule}: not known, since {reason}."
    many = all(count > MANY_HAEMORRHAGES for count in counts.values())
    listed = ", ".join(f"{QUADRANTS[name]} {count}" for name, count in counts.items())
    hidden = [QUADRANTS[name] for name in QUADRANTS if seen[name] < LEAST_SEEN]
    limit = f"; hardly in view: {', '.join(hidden)}" if hidden and not many else ""
    return many, f"{rule}: {'yes' if many else 'not in what is seen'} ({listed}{limit})."


def _remarks(eye: Eye, quality: str | None, lacking: list[str]) -> list[str]:
    """Sentences on what makes the summary less sound."""
    remarks = []
    if lacking:
        remarks.append(f"Not looked for: {', '.join(lacking)}.")
    if quality == "usable":
        remarks.append("The photograph's quality is only usable: small lesions may have been missed.")
    if eye.field.completeness < LEAST_COMPLETE:
        remarks.append(f"Only {int(100 * eye.field.completeness)} % of the camera's field is in the picture.")
    return remarks


def _words(name: str) -> str:
    return name.replace("_", " ")
