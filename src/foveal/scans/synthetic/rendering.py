"""From layers to a photograph: reflectance, blood as an absorber, lesions, the edge of the field."""

import numpy as np

from foveal.scans.synthetic.appearance import Backdrop, Look, enlarge, paint_disc
from foveal.scans.synthetic.lesions import LesionKind
from foveal.scans.synthetic.vessels import VesselKind

# Optical density of blood in red, green and blue, for a vessel as wide as a main vein. The proportions are
# near those measured on the wide vessels of LES-AV against their surroundings (arteries 0.08, 0.19, 0.12;
# veins 0.20, 0.32, 0.22); the amount is that of a clear eye.
_ABSORPTION: dict[VesselKind, tuple[float, float, float]] = {
    "artery": (0.14, 0.56, 0.36),
    "vein": (0.36, 0.82, 0.48),
}
# Bright lesions reflect light of their own; dark ones are blood, with an optical density.
_LESION_COLOR: dict[LesionKind, tuple[float, float, float]] = {
    "soft_exudates": (0.93, 0.82, 0.62),
    "hard_exudates": (0.98, 0.84, 0.38),
}
_LESION_DENSITY: dict[LesionKind, tuple[float, float, float]] = {
    "microaneurysms": (0.40, 1.15, 0.8),
    "haemorrhages": (0.50, 1.30, 0.9),
}


def render(
    look: Look,
    *,
    size: int,
    x: np.ndarray,
    y: np.ndarray,
    center: tuple[float, float],
    view_radius: float,
    fovea: tuple[float, float],
    field_share: float,
    density: dict[VesselKind, np.ndarray],
    lesion_opacity: dict[LesionKind, np.ndarray],
) -> np.ndarray:
    """Compose the photograph.

    Args:
        look: colours and textures.
        size: side of the picture, pixels.
        x: (W,) and y: (H,) degrees of the pixel centres in the frame of `vessels`.
        center: (x, y) of the middle of the picture, degrees.
        view_radius: radius of the field, degrees.
        fovea: (x, y), degrees.
        field_share: diameter of the field over the side of the picture.
        density: optical density of the arteries and of the veins, (H, W), 1 for the axis of a main vein.
        lesion_opacity: (H, W) in [0, 1] by kind.

    Returns:
        (H, W, 3) uint8; the border is exactly black.
    """
    backdrop = Backdrop(
        look, center=center, extent=2 * view_radius / field_share, view_radius=view_radius, fovea=fovea
    )
    picture = enlarge(backdrop.reflectance().astype(np.float32), size)
    if x[0] > x[-1]:
        picture = np.ascontiguousarray(picture[:, ::-1])

    light = _light_at(picture, look, x, y)
    for kind, color in _LESION_COLOR.items():
        touched = np.nonzero(lesion_opacity[kind])
        alpha, own = lesion_opacity[kind][touched][:, None], picture[touched]
        goal = np.array(color, np.float32) * min(1.0, light) * np.clip(own[:, :1] / 0.7, 0.45, 1.05)
        picture[touched] = own * (1 - alpha) + goal * alpha
    reach = 1.8 * max(look.disc_axes)
    columns, rows = np.flatnonzero(np.abs(x) < reach), np.flatnonzero(np.abs(y) < reach)
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    paint_disc(picture[window], look, x[window[1]][None, :], y[window[0]][:, None], light)
    for channel in range(3):
        absorbed = sum(_ABSORPTION[kind][channel] * layer for kind, layer in density.items())
        picture[..., channel] *= np.exp(-look.contrast * np.asarray(absorbed, np.float32))
    for kind, blood in _LESION_DENSITY.items():
        touched = np.nonzero(lesion_opacity[kind])
        picture[touched] *= np.exp(-lesion_opacity[kind][touched][:, None] * np.array(blood, np.float32))

    middle, radius = (size - 1) / 2, field_share * size / 2
    ramp = (np.arange(size, dtype=np.float32) - middle) ** 2
    rim = 1 - np.sqrt(ramp[:, None] + ramp[None, :]) / radius
    edge = np.clip(rim / 0.012, 0, 1) * (0.9 + 0.1 * np.clip(rim / 0.05, 0, 1))
    picture *= (np.sqrt(edge) * (rim >= 0))[..., None]
    # Highlights are compressed as by a film, not clipped.
    bright = picture > 0.9
    picture[bright] = 0.9 + 0.1 * np.tanh((picture[bright] - 0.9) / 0.1)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def _light_at(picture: np.ndarray, look: Look, x: np.ndarray, y: np.ndarray) -> float:
    """Brightness of the illumination about the disc, 1 where the background has its own colour."""
    columns, rows = np.flatnonzero(np.abs(x) < 4), np.flatnonzero(np.abs(y) < 4)
    around = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0]
    return float(np.clip(around.mean() / look.color[0], 0.4, 1.1))
