"""Codes, units and identifiers that foveal's DICOM objects share.

Standard codes are those of the DICOM context groups as pydicom carries them (PS3.16). What has none there has
a code of foveal's own scheme, 99FOVEAL, which every object declares; no standard code is guessed.
"""

from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID, uuid5

from highdicom import AlgorithmIdentificationSequence
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from foveal.pages import NOTICE
from foveal.screening.dicom_photograph import DicomPhotograph

SCHEME = "99FOVEAL"
MAKER = "foveal"
UTF_8 = "ISO_IR 192"
LONGEST_MEANING = 64  # characters in a Code Meaning, an LO (PS3.5 6.2)
NAMESPACE = UUID("6d1bfb52-0a0c-5d7c-9d43-5f4a4a1c9d1e")


def own_code(name: str, meaning: str) -> Code:
    """A code of foveal's own scheme; a meaning that is too long for DICOM ends in "..."."""
    if len(meaning) > LONGEST_MEANING:
        meaning = meaning[: LONGEST_MEANING - 3].rstrip() + "..."
    return Code(name, SCHEME, meaning)


@dataclass(frozen=True)
class Structure:
    """How a segmented structure is told to other software.

    Attributes:
        label: for people.
        category: segmented property category (CID 7150).
        type: segmented property type.
        colour: that viewers are advised to draw it in, red, green and blue from 0 to 255.
    """

    label: str
    category: Code
    type: Code
    colour: tuple[int, int, int]


ANATOMY, LESION = codes.SCT.AnatomicalStructure, codes.SCT.MorphologicallyAbnormalStructure
RETINA = codes.SCT.Retina
SIDES = {"L": codes.SCT.Left, "R": codes.SCT.Right}

STRUCTURES = {
    "vessels": Structure("Retinal vessels", ANATOMY, codes.SCT.BloodVessel, (25, 227, 255)),
    "arteries": Structure("Retinal arteries", ANATOMY, codes.SCT.Artery, (255, 70, 60)),
    "veins": Structure("Retinal veins", ANATOMY, codes.SCT.Vein, (70, 110, 255)),
    "disc": Structure("Optic disc", ANATOMY, codes.SCT.OpticNerveHead, (255, 235, 90)),
    "fovea": Structure("Fovea", ANATOMY, codes.SCT.FoveaCentralis, (255, 255, 255)),
    "haemorrhages": Structure("Haemorrhages", LESION, codes.SCT.Hemorrhage, (200, 0, 60)),
    "microaneurysms": Structure(
        "Microaneurysms", LESION, own_code("microaneurysm", "Microaneurysm"), (255, 0, 200)
    ),
    "hard_exudates": Structure(
        "Hard exudates", LESION, own_code("hard_exudate", "Hard exudate"), (255, 200, 0)
    ),
    "soft_exudates": Structure(
        "Soft exudates",
        LESION,
        own_code("soft_exudate", "Soft exudate (cotton wool spot)"),
        (190, 255, 190),
    ),
}
"""By name of the mask. Vessels, arteries and veins are told apart from those elsewhere by their region."""

UNKNOWN_COLOUR = (180, 180, 180)

UNITS = {
    "1": Code("1", "UCUM", "no units"),
    "fraction": Code("1", "UCUM", "no units"),
    "count": Code("{counts}", "UCUM", "Counts"),
    "px": Code("{pixels}", "UCUM", "Pixels"),
    "px2": Code("{square_pixels}", "UCUM", "Square pixels"),
    "field": Code("{field_diameters}", "UCUM", "Diameters of the field of view"),
    "field/1000": Code("10*-3{field_diameters}", "UCUM", "Thousandths of the field of view's diameter"),
    "1/field": Code("/{field_diameter}", "UCUM", "Per diameter of the field of view"),
    "mm": Code("mm", "UCUM", "millimeter"),
    "mm2": Code("mm2", "UCUM", "square millimeter"),
    "um": Code("um", "UCUM", "micrometer"),
    "mm/px": Code("mm/{pixel}", "UCUM", "Millimeters per pixel"),
    "degree": Code("deg", "UCUM", "Degree"),
    "bit": Code("bit", "UCUM", "bit"),
}
"""UCUM units by foveal's names for them; braces hold what UCUM treats as an annotation of "1"."""


def structure(name: str) -> Structure:
    """How the mask `name` is told; one that is not in `STRUCTURES` gets a code of its own."""
    known = STRUCTURES.get(name)
    if known is not None:
        return known
    title = name.replace("_", " ").capitalize()
    return Structure(title, ANATOMY, own_code(name, title), UNKNOWN_COLOUR)


def unit(name: str) -> Code:
    """UCUM unit.

    Raises:
        ValueError: foveal has no such unit.
    """
    try:
        return UNITS[name]
    except KeyError:
        raise ValueError(f"unit {name!r} has no UCUM code; allowed: {', '.join(UNITS)}") from None


def derived_uid(*parts: str) -> UID:
    """The identifier that follows from `parts`: the same parts give the same one everywhere.

    It is the integer form of a name-based UUID under the root 2.25 (PS3.5 B.2, RFC 9562 5.5).
    """
    return UID(f"2.25.{uuid5(NAMESPACE, chr(0).join(parts)).int}")


def version_parts(photograph: DicomPhotograph) -> list[str]:
    """Names and versions of what decided the result, in a fixed order."""
    return [f"{name} {version}" for name, version in sorted(photograph.versions.items())]


def maker(photograph: DicomPhotograph) -> dict:
    """Arguments that tell any of highdicom's objects which software made it.

    The serial number that DICOM demands of a device is a hash of all versions, as a program has none.
    """
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": photograph.versions["foveal"],
        "device_serial_number": sha256("\n".join(version_parts(photograph)).encode()).hexdigest()[:16],
    }


def declarations() -> dict:
    """Arguments that declare the own scheme, the character set, and that the content is for research."""
    scheme = CodingSchemeIdentificationItem(
        SCHEME, name="Codes of the foveal project", responsible_organization=MAKER
    )
    return {
        "coding_schemes": [scheme],
        "content_qualification": "RESEARCH",
        "specific_character_set": UTF_8,
        "series_description": NOTICE,
    }


def algorithm(photograph: DicomPhotograph) -> AlgorithmIdentificationSequence:
    """Which algorithm found the structures."""
    return AlgorithmIdentificationSequence(
        name=MAKER,
        family=codes.DCM.ArtificialIntelligence,
        version=photograph.versions["foveal"],
        source=MAKER,
        parameters={key: value for key, value in sorted(photograph.versions.items()) if key != "foveal"}
        or None,
    )
