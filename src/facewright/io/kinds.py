"""What kinds of file there are: the one table that reading, writing, folders and the command line go by.

The first bytes of a file decide what it is. Its suffix decides only where they say nothing (a damaged file), and where
they cannot tell a camera's raw file from another TIFF.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

from ..deprecation import renamed_arguments, renamed_attribute, renamed_names

logger = logging.getLogger(__name__)

if not TYPE_CHECKING:
    __getattr__ = renamed_names(__name__, {"FILMS": ":VIDEOS"})

HEAD = 4096
"""How many bytes `sniff` wants to see; it makes do with fewer."""

OWN_FOLDER = ".facewright"
"""The folder in which a run over a folder notes what it did, in the folder of its results."""

Medium = Literal["photo", "video"]
Signature = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional library that a kind needs: the extra of facewright, and the module that it brings."""

    name: str
    module: str

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def advice(self) -> str:
        return f'pip install "facewright[{self.name}]"'


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file. `name` is its format's name in this library, `title` what people call it.

    `suffixes` are all that it goes by; of those the ones in `writes` can be written, and results of the others get
    `output`. `matches` judges the first bytes. `needs` is the library without which it cannot be read.
    """

    name: str
    title: str
    medium: Medium
    matches: Signature
    suffixes: tuple[str, ...]
    writes: tuple[str, ...]
    output: str
    needs: Extra | None = None

    is_film = renamed_attribute("is_video")

    @property
    def is_video(self) -> bool:
        return self.medium == "video"

    @property
    def readable(self) -> bool:
        """Whether the library that it needs, if any, is installed."""
        return self.needs is None or self.needs.installed


# --- signatures -------------------------------------------------------------------------------------------------------


def _starts(*magics: bytes) -> Signature:
    return lambda head: head.startswith(magics)


def _brands(head: bytes) -> tuple[bytes, frozenset[bytes]]:
    """The major and the compatible brands of an ISO base media file (ISO/IEC 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return b"", frozenset()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return head[8:12], frozenset(head[at : at + 4] for at in range(16, end - 3, 4))


_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_STILL_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf", b"MiHE", b"MiHB"})
_SOUND_BRANDS = frozenset({b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax "})
_RAW_BRAND = b"crx "


def _is_avif(head: bytes) -> bool:
    major, compatible = _brands(head)
    return major in _AVIF_BRANDS or (major in _STILL_BRANDS and bool(compatible & _AVIF_BRANDS))


def _is_heif(head: bytes) -> bool:
    major, _ = _brands(head)
    return major in _HEIF_BRANDS or (major in _STILL_BRANDS and not _is_avif(head))


def _is_mp4(head: bytes) -> bool:
    major, _ = _brands(head)
    others = _HEIF_BRANDS | _AVIF_BRANDS | _STILL_BRANDS | _SOUND_BRANDS | {_RAW_BRAND, b"", b"qt  "}
    return major not in others and major[:3] not in (b"3gp", b"3g2")


def _is_3gp(head: bytes) -> bool:
    return _brands(head)[0][:3] in (b"3gp", b"3g2")


def _is_quicktime(head: bytes) -> bool:
    """With a brand, or in the older form that begins with any of its boxes."""
    return _brands(head)[0] == b"qt  " or head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def _is_bitmap(head: bytes) -> bool:
    """`BM` alone begins too many texts; the size of the header behind it does not."""
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)


def _is_pnm(head: bytes) -> bool:
    return head[:1] == b"P" and head[1:2] in b"123456fF" and len(head) > 2 and head[2:3].isspace()


def _is_raw(head: bytes) -> bool:
    """The makers' formats that say so at once. DNG, NEF, ARW, PEF and others begin like any TIFF."""
    if _brands(head)[0] == _RAW_BRAND or (head[8:10] == b"CR" and head[:4] == b"II*\0"):
        return True
    return head.startswith((b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM")) or (
        head[:2] == b"II" and head[6:14] == b"HEAPCCDR"
    )


def _is_transport_stream(head: bytes) -> bool:
    """Packets of 188 bytes, or of 192 with a time stamp before each, that begin with a G."""
    for first, step in ((0, 188), (4, 192)):
        marks = head[first::step]
        if len(marks) >= 2 and set(marks) == {0x47}:
            return True
    return False


def _is_matroska(head: bytes) -> bool:
    return head.startswith(b"\x1aE\xdf\xa3") and b"webm" not in head[:64]


def _is_webm(head: bytes) -> bool:
    return head.startswith(b"\x1aE\xdf\xa3") and b"webm" in head[:64]


def _is_ogg_video(head: bytes) -> bool:
    """Ogg holds music, too; a video has a picture stream among the first pages."""
    return head.startswith(b"OggS") and any(mark in head for mark in (b"\x80theora", b"\x01video", b"BBCD\0"))


# --- the table --------------------------------------------------------------------------------------------------------


def _photo(
    name: str, title: str, matches: Signature, suffixes: str, *, also: str = "", output: str = "", extra: str = ""
) -> Kind:
    """`suffixes` can be read and written, `also` only read."""
    writes = tuple(suffixes.split())
    modules = {"jxl": "pillow_jxl", "raw": "rawpy"}
    needs = Extra(extra, modules[extra]) if extra else None
    return Kind(name, title, "photo", matches, (*writes, *also.split()), writes, output or writes[0], needs)


def _video(name: str, title: str, matches: Signature, suffixes: str, *, also: str = "", output: str = ".mkv") -> Kind:
    writes = tuple(suffixes.split())
    return Kind(name, title, "video", matches, (*writes, *also.split()), writes, writes[0] if writes else output)


KINDS: tuple[Kind, ...] = (
    _photo("JPEG", "JPEG", _starts(b"\xff\xd8\xff"), ".jpg .jpeg .jpe .jfif", also=".jif .mpo"),
    _photo("PNG", "PNG", _starts(b"\x89PNG\r\n\x1a\n"), ".png", also=".apng"),
    _photo("RAW", "camera raw", _is_raw, "", output=".tif", extra="raw", also=".dng .cr2 .cr3 .crw .nef .nrw .arw .srf "
           ".sr2 .orf .rw2 .raf .pef .srw .rwl .raw .x3f .mrw .3fr .fff .iiq .erf .kdc .dcr .mos .mef .gpr"),
    _photo("TIFF", "TIFF", _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ".tif .tiff", also=".btf .tf8"),
    _photo("WEBP", "WebP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", ".webp"),
    _photo("AVIF", "AVIF", _is_avif, ".avif", also=".avifs"),
    _photo("HEIF", "HEIC", _is_heif, ".heic .heif .hif", also=".heics .heifs"),
    _photo("GIF", "GIF", _starts(b"GIF87a", b"GIF89a"), ".gif"),
    _photo("BMP", "BMP", _is_bitmap, ".bmp", also=".dib"),
    _photo("JPEG2000", "JPEG 2000", _starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), ".jp2",
           also=".j2k .j2c .jpc .jpf .jpx .jpm"),
    _photo("PPM", "PPM", _is_pnm, ".ppm .pgm .pnm", also=".pbm .pfm"),
    _photo("JXL", "JPEG XL", _starts(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), ".jxl", extra="jxl"),
    _video("MP4", "MP4", _is_mp4, ".mp4 .m4v", also=".f4v"),
    _video("MOV", "QuickTime", _is_quicktime, ".mov", also=".qt"),
    _video("3GP", "3GP", _is_3gp, "", also=".3gp .3g2 .3gpp", output=".mp4"),
    _video("MATROSKA", "Matroska", _is_matroska, ".mkv", also=".mk3d"),
    _video("WEBM", "WebM", _is_webm, ".webm"),
    _video("AVI", "AVI", lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", "", also=".avi .divx"),
    _video("MPEG", "MPEG", _starts(b"\0\0\x01\xba", b"\0\0\x01\xb3"), "", also=".mpg .mpeg .mpe .vob .m2v .m1v .mod"),
    _video("TS", "MPEG transport stream", _is_transport_stream, "", also=".ts .mts .m2ts .m2t .trp .tod"),
    _video("ASF", "Windows Media", _starts(b"0&\xb2u\x8ef\xcf\x11"), "", also=".wmv .asf"),
    _video("FLV", "Flash", _starts(b"FLV\x01"), "", also=".flv"),
    _video("OGG", "Ogg", _is_ogg_video, "", also=".ogv .ogm"),
    _video("DV", "DV", _starts(b"\x1f\x07\0"), "", also=".dv .dif"),
    _video("MXF", "MXF", _starts(b"\x06\x0e+4\x02\x05\x01\x01\r\x01\x02"), "", also=".mxf"),
    _video("RM", "RealMedia", _starts(b".RMF"), "", also=".rm .rmvb"),
    _video("Y4M", "YUV4MPEG", _starts(b"YUV4MPEG2 "), "", also=".y4m"),
)  # fmt: skip

PHOTOS = tuple(kind for kind in KINDS if not kind.is_video)
VIDEOS = tuple(kind for kind in KINDS if kind.is_video)
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}
BY_SUFFIX: Mapping[str, Kind] = {suffix: kind for kind in KINDS for suffix in kind.suffixes}
WRITABLE: Mapping[str, Kind] = {suffix: kind for kind in KINDS for suffix in kind.writes}
_SHARED_SUFFIXES = frozenset({".ts", ".mod", ".raw", ".dif", ".mos", ".fff", ".rm", ".dv", ".dcr"})
"""Suffixes that programs for other things use, too: such a file is one of ours only if its first bytes say so."""


def sniff(head: bytes) -> Kind | None:
    """The kind that the first bytes of a file announce (`HEAD` of them are enough)."""
    return next((kind for kind in KINDS if kind.matches(head)), None)


def kind_of(path: Path | str) -> Kind | None:
    """The kind of a file by its first bytes, else by its suffix; None for folders, missing and other files."""
    path = Path(path)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(HEAD)
    except (OSError, ValueError):
        return None
    suffix = path.suffix.lower()
    by_suffix = BY_SUFFIX.get(suffix)
    found = sniff(head)
    if found is None:
        return None if suffix in _SHARED_SUFFIXES else by_suffix
    if found.name == "TIFF" and by_suffix is not None and by_suffix.name == "RAW":
        return by_suffix
    return found


def output_name(name: str | PurePath, kind: Kind) -> str:
    """The name of the result of a file: its own where that suffix can be written, else with the kind's `output`."""
    path = PurePath(name)
    writable = WRITABLE.get(path.suffix.lower())
    if writable is not None and writable.medium == kind.medium:
        return path.name
    known = path.suffix.lower() in BY_SUFFIX
    return (path.stem if known else path.name) + kind.output


# --- folders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds: files to work on in order, how many were skipped for which reason, and which."""

    files: tuple[tuple[Path, Kind], ...]
    passed_over: Mapping[str, int]
    others: tuple[Path, ...] = ()

    @property
    def sentence(self) -> str:
        """For example "3 skipped: 2 hidden, 1 of other kinds (.txt)"; "" when nothing was."""
        total = sum(self.passed_over.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.passed_over.items())
        return f"{total} skipped: {reasons}" if total else ""


@renamed_arguments(films="videos")
def survey(folder: Path, *, without: Path | None = None, videos: bool = True) -> Survey:
    """Every photo (and video) below a folder, in order; what lies in the folder `without` does not count at all.

    Taken is what has a known suffix, or none, and is of a known kind; other suffixes are skipped whatever they
    hold (cameras and programs name their thumbnails and scratch files so). What this library notes beside its results
    does not count either.
    """
    left_out = None if without is None else without.resolve()
    files: list[tuple[Path, Kind]] = []
    reasons: Counter[str] = Counter()
    others: Counter[str] = Counter()
    left: list[Path] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder).parts
        if OWN_FOLDER in inside or (left_out is not None and left_out in path.resolve().parents):
            continue
        if any(part.startswith(".") for part in inside):
            reasons["hidden"] += 1
            left.append(path)
            logger.debug("%s: skipped, hidden", path)
            continue
        suffix = path.suffix.lower()
        kind = kind_of(path) if suffix in BY_SUFFIX or not suffix else None
        if kind is None or (kind.is_video and not videos):
            others[suffix or "no suffix"] += 1
            left.append(path)
            logger.debug("%s: skipped, not a known kind of file", path)
        elif kind.needs is not None and not kind.needs.installed:
            reasons[f"{kind.title} ({kind.needs.advice} to read them)"] += 1
            left.append(path)
            logger.debug("%s: skipped, %s is not installed", path, kind.needs.module)
        else:
            files.append((path, kind))
    if others:
        named = [suffix for suffix, _ in others.most_common(5)]
        named += [f"and {len(others) - 5} more"] if len(others) > 5 else []
        reasons[f"of other kinds ({', '.join(named)})"] = others.total()
    return Survey(tuple(files), dict(reasons), tuple(left))


def targets(files: tuple[tuple[Path, Kind], ...], source: Path, target: Path) -> list[Path]:
    """Where the results go: the same place below `target`, names by `output_name`.

    Where two would meet (`a.dng` beside `a.tif`), the one whose suffix changes keeps its whole name (`a.dng.tif`).
    """
    wished = [(path.parent / output_name(path.name, kind)).relative_to(source) for path, kind in files]
    taken = Counter(str(place).casefold() for place in wished)  # some file systems do not tell A from a
    places = []
    for (path, kind), place in zip(files, wished):
        if taken[str(place).casefold()] > 1 and place.name != path.name:
            place = place.with_name(path.name + kind.output)
        places.append(target / place)
    return places
