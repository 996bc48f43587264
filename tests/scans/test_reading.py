import hashlib
import importlib.util
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from foveal.scans.reading import read_scan
from foveal.scans.scan import Scan, ScanError


def save(image: np.ndarray | Image.Image, path: Path, **options) -> Path:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


def png(samples: np.ndarray, colour_type: int, path: Path, row_filter: int = 0, claimed=None) -> Path:
    """Write a PNG with our own hands: Pillow cannot write 16-bit colour, nor lie about the size."""
    height, width = samples.shape[:2]
    channels = samples.reshape(height, width, -1).shape[2]
    rows = (
        samples.astype(">u2" if samples.dtype == np.uint16 else np.uint8).reshape(height, -1).view(np.uint8)
    )
    step, filtered = channels * samples.dtype.itemsize, rows
    if row_filter == 1:  # Sub
        filtered = rows - np.pad(rows, ((0, 0), (step, 0)))[:, : rows.shape[1]]
    if row_filter == 2:  # Up
        filtered = rows - np.pad(rows, ((1, 0), (0, 0)))[:-1]
    body = np.pad(filtered, ((0, 0), (1, 0)), constant_values=row_filter).tobytes()
    size = claimed or (width, height)
    header = struct.pack(">IIBBBBB", *size, 8 * samples.dtype.itemsize, colour_type, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, chunk in ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b"")):
        data += struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", zlib.crc32(kind + chunk))
    path.write_bytes(data)
    return path


def reason(path: Path, **options) -> str:
    with pytest.raises(ScanError) as caught:
        read_scan(path, **options)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert caught.value.path == path
    return caught.value.reason


# --- what is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "tif"])
def test_lossless_rgb_comes_back_unchanged(photograph, tmp_path, ending):
    path = save(photograph, tmp_path / f"eye.{ending}")
    scan = read_scan(path)
    assert np.array_equal(scan.image, photograph)
    assert scan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (scan.format, scan.bit_depth, scan.frames, scan.path) == (
        {"png": "PNG", "bmp": "BMP", "ppm": "PPM", "tif": "TIFF"}[ending], 8, 1, path,
    )  # fmt: skip


def test_jpeg_comes_back_within_its_coding_error(photograph, tmp_path):
    scan = read_scan(save(photograph, tmp_path / "eye.jpg", quality=95))
    assert np.abs(scan.image.astype(int) - photograph).mean() < 1
    assert scan.format == "JPEG"


def test_cmyk_jpeg_keeps_its_colours(photograph, tmp_path):
    path = save(Image.fromarray(photograph).convert("CMYK"), tmp_path / "eye.jpg", quality=98)
    assert np.abs(read_scan(path).image.astype(int) - photograph).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_exif_orientation_is_undone(photograph, tmp_path, orientation, ending):
    # The inverse of each orientation, in terms of what a viewer has to do (EXIF 2.3, tag 274).
    stored = {
        1: photograph,
        2: photograph[:, ::-1],
        3: photograph[::-1, ::-1],
        4: photograph[::-1],
        5: photograph.transpose(1, 0, 2),
        6: np.rot90(photograph, 1),
        7: np.rot90(photograph, 2).transpose(1, 0, 2),
        8: np.rot90(photograph, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98} if ending == "jpg" else {}
    path = save(np.ascontiguousarray(stored), tmp_path / f"eye.{ending}", exif=exif, **options)
    assert np.abs(read_scan(path).image.astype(int) - photograph).mean() < 1


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_damaged_exif_does_not_take_the_photograph_with_it(photograph, tmp_path, ending):
    path = save(photograph, tmp_path / f"eye.{ending}", exif=b"Exif\0\0garbage, no TIFF header")
    assert read_scan(path).image.shape == photograph.shape


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_every_8_bit_mode_becomes_rgb(photograph, tmp_path, mode):
    source = Image.fromarray(photograph).convert(mode)
    scan = read_scan(save(source, tmp_path / "eye.png"))
    assert np.array_equal(scan.image, np.asarray(source.convert("RGB")))
    assert scan.bit_depth == (1 if mode == "1" else 8)


def test_transparency_is_composited_on_black(photograph, tmp_path):
    alpha = np.full(photograph.shape[:2], 51, np.uint8)  # a fifth
    alpha[:, :10] = 0
    scan = read_scan(save(np.dstack([photograph, alpha]), tmp_path / "eye.png"))
    assert not scan.image[:, :10].any()
    assert np.abs(scan.image[:, 10:] - photograph[:, 10:] / 5).max() <= 0.5


def test_transparent_palette_entry_is_black(photograph, tmp_path):
    palette = Image.fromarray(photograph).quantize(16)
    entry = np.asarray(palette)[40, 40]
    scan = read_scan(save(palette, tmp_path / "eye.png", transparency=int(entry)))
    inside = np.asarray(palette) == entry
    assert not scan.image[inside].any()
    assert scan.image[~inside].any(axis=-1).mean() > 0.9


def test_transparent_colour_is_black(photograph, tmp_path):
    grey = photograph[..., 0]
    scan = read_scan(save(grey, tmp_path / "eye.png", transparency=60))
    assert np.array_equal(scan.image[..., 0], np.where(grey == 60, 0, grey))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_deep_samples_are_scaled_by_the_bits_that_their_maximum_uses(photograph, tmp_path, bits, ending):
    top = 2**bits - 1
    grey = np.rint(photograph[..., 0] * (top / 213)).astype(np.uint16)  # 213 is its maximum
    scan = read_scan(save(grey, tmp_path / f"eye.{ending}"))
    assert scan.bit_depth == bits
    assert np.array_equal(scan.image[..., 0], np.rint(grey * (255 / top)))
    assert np.array_equal(scan.image[..., 0], scan.image[..., 2])


@pytest.mark.parametrize("row_filter", [0, 1, 2])
@pytest.mark.parametrize("top", [4095, 65535])
@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_deep_png_with_several_channels_keeps_its_low_bytes(tmp_path, colour_type, top, row_filter):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, top, (70, 80, 1 if colour_type == 4 else 3), endpoint=True).astype(np.uint16)
    colours[0, 0] = top
    alpha = np.full((70, 80, 1), 65535, np.uint16)
    samples = colours if colour_type == 2 else np.concatenate([colours, alpha], axis=2)
    scan = read_scan(png(samples, colour_type, tmp_path / "eye.png", row_filter))
    assert np.array_equal(scan.image, np.broadcast_to(np.rint(colours * (255 / top)), scan.image.shape))
    assert scan.bit_depth == (12 if top == 4095 else 16)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (32, 32)},
        {"bigtiff": True},
        {"compression": "zlib", "predictor": True},
        {"byteorder": ">"},
        {"rowsperstrip": 7},
    ],
    ids=str,
)
def test_deep_rgb_tiff_of_every_layout(tmp_path, options):
    samples = np.random.default_rng(0).integers(0, 65536, (72, 96, 3)).astype(np.uint16)
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, samples, photometric="rgb", **options)
    assert np.array_equal(read_scan(path).image, np.rint(samples / 257))


def test_planar_tiff_is_interleaved(photograph, tmp_path):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, photograph.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_scan(path).image, photograph)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff(photograph, tmp_path, compression):
    path = save(photograph, tmp_path / "eye.tif", compression=compression)
    assert np.array_equal(read_scan(path).image, photograph)


def test_jpeg_compressed_tiff(photograph, tmp_path):
    path = save(photograph, tmp_path / "eye.tif", compression="jpeg", quality=95)
    assert np.abs(read_scan(path).image.astype(int) - photograph).mean() < 1


def test_deep_colour_tiff_with_a_foreign_codec_names_the_package_that_reads_it(tmp_path):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, np.zeros((72, 96, 3), np.uint16), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(5)  # LZW
    if importlib.util.find_spec("imagecodecs"):
        pytest.skip("imagecodecs is installed, so this codec is not foreign")
    assert "pip install imagecodecs" in reason(path)


def test_white_is_zero_tiff_is_inverted(photograph, tmp_path):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, photograph[..., 0], photometric="miniswhite")
    assert np.array_equal(read_scan(path).image[..., 1], 255 - photograph[..., 0])


def test_palette_tiff_uses_its_colour_map(photograph, tmp_path):
    palette = Image.fromarray(photograph).quantize(32)
    path = save(palette, tmp_path / "eye.tif")
    assert np.array_equal(read_scan(path).image, np.asarray(palette.convert("RGB")))


def test_cmyk_tiff_keeps_its_colours(photograph, tmp_path):
    path = save(Image.fromarray(photograph).convert("CMYK"), tmp_path / "eye.tif")
    assert np.abs(read_scan(path).image.astype(int) - photograph).max() <= 1


def test_ycbcr_tiff_becomes_rgb(photograph, tmp_path):
    path = save(Image.fromarray(photograph).convert("YCbCr"), tmp_path / "eye.tif")
    assert np.abs(read_scan(path).image.astype(int) - photograph).mean() < 2


def test_tiff_alpha_is_composited_unless_the_colours_carry_it(photograph, tmp_path):
    path = tmp_path / "eye.tif"
    samples = np.dstack([photograph, np.full(photograph.shape[:2], 51, np.uint8)])
    tifffile.imwrite(path, samples, photometric="rgb", extrasamples=["unassalpha"])
    assert np.abs(read_scan(path).image - photograph / 5).max() <= 0.5
    tifffile.imwrite(path, samples, photometric="rgb", extrasamples=["assocalpha"])
    assert np.array_equal(read_scan(path).image, photograph)


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_tiff_is_scaled_from_the_range_that_holds_it(photograph, tmp_path, top):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, (photograph / 255 * top).astype(np.float32), photometric="rgb")
    scan = read_scan(path)
    assert np.array_equal(scan.image, photograph)
    assert scan.bit_depth == 32


def test_pages_of_a_tiff_are_frames_and_thumbnails_are_not(photograph, tmp_path):
    path = tmp_path / "eye.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(photograph, photometric="rgb")
        writer.write(photograph[:16, :16], photometric="rgb", subfiletype=1)
        writer.write(255 - photograph, photometric="rgb")
    scan = read_scan(path, frame=1)
    assert (scan.frame, scan.frames) == (1, 2)
    assert np.array_equal(scan.image, 255 - photograph)
    assert reason(path, frame=2) == "frame is 2; allowed: 0 to 1"


def test_resolution_tags_are_no_spacing(photograph, tmp_path):
    for name in ("eye.jpg", "eye.png", "eye.tif"):
        assert read_scan(save(photograph, tmp_path / name, dpi=(300, 300))).spacing_mm is None


def test_content_decides_the_format_not_the_ending(photograph, tmp_path):
    path = save(photograph, tmp_path / "eye.png", format="JPEG")
    assert read_scan(path).format == "JPEG"
    path = save(photograph, tmp_path / "eye", format="TIFF")
    assert read_scan(path).format == "TIFF"


def test_constant_image_is_read(tmp_path):
    assert read_scan(save(np.full((64, 64), 7, np.uint16), tmp_path / "eye.png")).image.min() == 7


def test_real_photographs_are_read_at_their_published_size(data_root):
    retina = read_scan(data_root / "samples" / "retina.jpg")
    assert (retina.image.shape, retina.format) == ((1411, 1411, 3), "JPEG")
    eye = read_scan(data_root / "LES-AV" / "images" / "34.png")
    assert eye.image.shape == (1958, 2196, 3)
    assert eye.image[..., 0].mean() > eye.image[..., 2].mean()  # a retina is red


# --- what is refused --------------------------------------------------------------------------------


def test_missing_folder_and_empty_files_are_named(tmp_path):
    assert reason(tmp_path / "none.png") == "does not exist"
    assert reason(tmp_path) == "is a folder; allowed: a file"
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path / "empty.png") == "is empty (0 bytes)"
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    assert reason(tmp_path / "broken.png") == "is a link to a file that does not exist"
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert reason(tmp_path / "loop.png").startswith("cannot be read: Too many levels of symbolic links")
    assert "no possible file name" in reason(Path("a\0b.png"))


def test_unreadable_file_is_named():
    if os.name == "nt":
        pytest.skip("Windows has no permission bits")
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: others may not enter that one at all
        os.chmod(folder, 0o755)
        path = Path(folder) / "eye.png"
        save(np.zeros((64, 64), np.uint8), path)
        path.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            assert reason(path) == "cannot be read: Permission denied"
        finally:
            os.seteuid(user)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    code = f"from foveal.scans.reading import read_scan; read_scan({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert "is a pipe, socket or device; allowed: a regular file" in done.stderr


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"patient,eye\n7,L\n", "is no image (it begins with b'patient,eye"),
        (b"GIF89a" + bytes(20), "is a GIF image"),
        (b"%PDF-1.4 " + bytes(20), "is a PDF document"),
        (b"PK\x03\x04" + bytes(20), "is a ZIP archive"),
    ],
)
def test_what_is_no_image_is_named_for_what_it_is(tmp_path, content, found):
    path = tmp_path / "eye.png"
    path.write_bytes(content)
    told = reason(path)
    assert told.startswith(found)
    assert told.endswith("in spite of its ending .png; allowed: JPEG, PNG, TIFF, BMP, PPM or DICOM")


def test_absurd_png_is_refused_from_its_header(tmp_path):
    path = png(np.zeros((4, 4, 3), np.uint8), 2, tmp_path / "bomb.png", claimed=(60_000, 50_000))
    told = reason(path)
    assert "60000 x 50000 px, 3000.0 megapixels; allowed: at most 64" in told


def test_absurd_jpeg_is_refused_from_its_header(photograph, tmp_path):
    path = save(photograph, tmp_path / "bomb.jpg")
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 40_000, 30_000)
    path.write_bytes(data)
    assert "30000 x 40000 px, 1200.0 megapixels" in reason(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_absurd_tiff_is_refused_from_its_header(tmp_path, bits):
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((64, 64), f"u{bits // 8}"))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(60_000)
        tiff.pages[0].tags["ImageLength"].overwrite(50_000)
    assert "3000.0 megapixels" in reason(path)


def test_the_limits_are_the_callers(tmp_path):
    path = save(np.zeros((100, 200), np.uint8), tmp_path / "eye.png")
    assert read_scan(path, max_megapixels=0.02, min_side=100).image.shape == (100, 200, 3)
    assert "0.0 megapixels; allowed: at most 0.019" in reason(path, max_megapixels=0.019)
    told = reason(path, min_side=101)
    assert told == "image is 200 x 100 px (width x height); allowed: at least 101 a side"
    with pytest.raises(ValueError, match="max_megapixels is 0"):
        read_scan(path, max_megapixels=0)
    with pytest.raises(ValueError, match="min_side is 0"):
        read_scan(path, min_side=0)
    with pytest.raises(ValueError, match="frame is -1"):
        read_scan(path, frame=-1)
    assert reason(path, frame=1) == "frame is 1; allowed: 0 (PNG holds one image)"


def test_pillows_own_pixel_limit_does_not_apply(tmp_path, monkeypatch):
    path = save(np.zeros((100, 200), np.uint8), tmp_path / "eye.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_scan(path).image.shape == (100, 200, 3)


def test_one_pixel_is_no_photograph(tmp_path):
    assert "1 x 1 px" in reason(save(np.zeros((1, 1, 3), np.uint8), tmp_path / "dot.png"))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "name", ["eye.jpg", "progressive.jpg", "eye.png", "eye.bmp", "eye.ppm", "eye.tif", "lzw.tif", "deep.png"]
)
def test_truncated_files_are_refused_and_never_filled(tmp_path, name, keep):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)
    path = tmp_path / name
    if name == "deep.png":
        png(rng.integers(0, 65536, (128, 128, 3)).astype(np.uint16), 2, path)
    else:
        extra = {"progressive.jpg": {"progressive": True}, "lzw.tif": {"compression": "tiff_lzw"}}
        save(noise, path, **extra.get(name, {}))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert "truncated" in reason(path)


def test_jpeg_whose_tail_was_never_written_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    path = save(noise, tmp_path / "eye.jpg")
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))  # what an interrupted copy leaves
    with Image.open(path) as image:
        image.load()  # Pillow is content, and shows grey
    assert "end marker (FF D9) is missing" in reason(path)


def test_tiff_cut_in_its_last_tile_is_refused_before_decoding(tmp_path):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, np.full((64, 64), 9, np.uint8), tile=(32, 32))
    path.write_bytes(path.read_bytes()[:-1])
    assert "1 of 4 strips or tiles are missing" in reason(path)


def test_decoders_write_nothing_to_the_terminal(photograph, tmp_path):
    path = save(photograph, tmp_path / "eye.tif", compression="tiff_lzw")
    path.write_bytes(path.read_bytes()[:-9])  # its directory lies at the end
    code = f"""
from foveal.scans.reading import read_scan
try:
    read_scan({str(path)!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    assert done.stderr == ""


def test_tiff_with_absent_tiles_is_refused(tmp_path):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, np.full((64, 64), 9, np.uint8), tile=(32, 32))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        tiff.pages[0].tags["TileByteCounts"].overwrite([*counts[:3], 0])
    assert "1 of 4 strips or tiles are missing" in reason(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_tiff_that_is_not_finite_is_refused(tmp_path, value):
    samples = np.zeros((64, 64), np.float32)
    samples[3, 5] = value
    tifffile.imwrite(tmp_path / "eye.tif", samples)
    assert reason(tmp_path / "eye.tif").startswith("1 of 4096 float samples are NaN or infinite")


@pytest.mark.parametrize("value", [-0.1, 65536.0])
def test_float_tiff_of_unknown_range_is_refused(tmp_path, value):
    samples = np.zeros((64, 64), np.float32)
    samples[3, 5] = value
    tifffile.imwrite(tmp_path / "eye.tif", samples)
    assert "allowed: [0, 1], [0, 255] or [0, 65535]" in reason(tmp_path / "eye.tif")


def test_integers_that_no_camera_writes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "eye.tif", np.ones((64, 64), np.uint32))
    assert "samples are uint32" in reason(tmp_path / "eye.tif")
    tifffile.imwrite(tmp_path / "eye.tif", np.full((64, 64), -1, np.int16))
    assert "signed samples reach -1" in reason(tmp_path / "eye.tif")
    tifffile.imwrite(
        tmp_path / "eye.tif", np.ones((64, 64, 9), np.uint8), photometric="minisblack", planarconfig=1
    )
    assert "9 samples a pixel" in reason(tmp_path / "eye.tif")


def test_damage_anywhere_gives_a_scan_or_a_scan_error_and_no_warning(photograph, tmp_path, write_dicom):
    """Flip bytes all over files of every format: nothing but ScanError may come out."""
    encoded = BytesIO()
    Image.fromarray(photograph).save(encoded, "JPEG")
    sources = [
        save(photograph, tmp_path / "eye.jpg", exif=Image.Exif()),
        save(photograph, tmp_path / "eye.png"),
        save(photograph, tmp_path / "eye.bmp"),
        save(photograph, tmp_path / "eye.ppm"),
        save(photograph, tmp_path / "eye.tif", compression="tiff_deflate"),
        write_dicom(photograph, PatientID="7", PixelSpacing=[0.01, 0.01], AcquisitionDate="20200229"),
        write_dicom(photograph, "j.dcm", photometric="YBR_FULL_422", syntax="1.2.840.10008.1.2.4.50",
                    encoded=[encoded.getvalue()]),
    ]  # fmt: skip
    rng, outcomes = np.random.default_rng(0), []
    target = tmp_path / "damaged"
    for source in sources:
        data = np.frombuffer(source.read_bytes(), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            # Headers are where decoders trip, so most of the damage goes there.
            where = rng.integers(0, min(len(data), 900), rng.integers(1, 8))
            damaged[where] = rng.integers(0, 256, len(where))
            target.write_bytes(damaged.tobytes())
            with warnings.catch_warnings(record=True) as leaked:
                warnings.simplefilter("always")
                try:
                    outcomes.append(type(read_scan(target)))
                except ScanError:
                    outcomes.append(ScanError)
            assert not leaked
    assert set(outcomes) == {Scan, ScanError}


def test_scan_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ScanError("a.png", "is empty")))
    assert (error.path, error.reason, str(error)) == (Path("a.png"), "is empty", "a.png: is empty")


@pytest.mark.parametrize(
    "options",
    [
        {"image": np.zeros((4, 4, 3))},
        {"image": np.zeros((4, 4), np.uint8)},
        {"image": np.zeros((4, 4, 3), np.uint8), "frame": 1},
    ],
    ids=["float", "grey", "frame"],
)
def test_scan_holds_only_what_it_promises(options):
    with pytest.raises(ValueError, match="allowed"):
        Scan(path=Path("eye.png"), **options)


def test_reading_does_not_import_torch_or_pandas():
    code = (
        "import sys, foveal.scans.reading, foveal.scans.discovery, foveal.scans.manifest;"
        "print({'torch', 'pandas', 'pydicom'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
