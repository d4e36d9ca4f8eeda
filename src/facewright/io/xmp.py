"""XMP packets: parsing them safely, turning the regions in them, and removing what no longer holds.

A packet that is not well-formed is left as it is by everything here.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

X = "adobe:ns:meta/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
PACKET_HEAD = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'.encode()
PACKET_TAIL = b'\n<?xpacket end="w"?>'

_AREA = "http://ns.adobe.com/xmp/sType/Area#"
_DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_MP_REGION = "http://ns.microsoft.com/photo/1.2/t/Region#"
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"

_GOOGLE = "http://ns.google.com/photos/1.0/"
_CAMERA, _CONTAINER, _ITEM = f"{_GOOGLE}camera/", f"{_GOOGLE}container/", f"{_GOOGLE}container/item/"
_NOTE = "http://ns.adobe.com/xmp/note/"
MOTION_PHOTO, GAIN_MAP, DEPTH_MAP, EXTENDED = "motion photo", "gain map", "depth map", "extended XMP"
_ANNOUNCING = {
    "http://ns.adobe.com/hdr-gain-map/1.0/": GAIN_MAP,
    "http://ns.apple.com/HDRGainMap/1.0/": GAIN_MAP,
    "http://ns.apple.com/pixeldatainfo/1.0/": GAIN_MAP,
    f"{_GOOGLE}depthmap/": DEPTH_MAP,
    f"{_GOOGLE}image/": DEPTH_MAP,
    "http://ns.google.com/photos/dd/1.0/device/": DEPTH_MAP,
    f"{_GOOGLE}audio/": "sound",
    _NOTE: EXTENDED,
}
_SEMANTICS = {"MotionPhoto": MOTION_PHOTO, "GainMap": GAIN_MAP, "Depth": DEPTH_MAP}
_MOTION_NAMES = ("MotionPhoto", "MicroVideo")

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8]""")
_GPS = re.compile(
    rb"""\s*exif:GPS\w+\s*=\s*(?:"[^"]*"|'[^']*')|\s*<exif:GPS(\w+)(?:\s[^>]*)?(?:/>|>.*?</exif:GPS\1\s*>)""", re.DOTALL
)


# --- packets ----------------------------------------------------------------------------------------------------------


def parse(packet: bytes) -> ET.Element | None:
    """The root of a packet that holds rdf:RDF, or None. Entity definitions, which XMP forbids, are refused.

    The packet's own namespace prefixes are kept for writing it again.
    """
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return None
    try:
        for _, (prefix, uri) in ET.iterparse(BytesIO(packet.strip(b"\0 \r\n\t")), events=("start-ns",)):
            _keep_prefix(prefix, uri)
        root = ET.fromstring(packet.strip(b"\0 \r\n\t"))
    except (ET.ParseError, ValueError, LookupError):
        return None
    return root if rdf(root) is not None else None


def serialised(root: ET.Element) -> bytes:
    """A packet around this root."""
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=False)
    return PACKET_HEAD + content + PACKET_TAIL


def rdf(root: ET.Element) -> ET.Element | None:
    """The rdf:RDF element."""
    return root if root.tag == f"{{{RDF}}}RDF" else root.find(f".//{{{RDF}}}RDF")


def descriptions(root: ET.Element) -> list[ET.Element]:
    """All rdf:Description elements at the top."""
    top = rdf(root)
    return [] if top is None else top.findall(f"{{{RDF}}}Description")


def _keep_prefix(prefix: str, uri: str) -> None:
    if prefix:
        try:
            ET.register_namespace(prefix, uri)
        except ValueError:  # ElementTree keeps ns0, ns1 ... for itself
            return


def without_gps(packet: bytes) -> bytes:
    """The same packet without its `exif:GPS…` properties."""
    return _GPS.sub(b"", packet)


# --- orientation ------------------------------------------------------------------------------------------------------


def upright(packet: bytes, orientation: int, size: tuple[int, int]) -> bytes:
    """The packet for pixels that were turned as `orientation` (1 to 8) says; `size` is (width, height) as stored.

    `tiff:Orientation` becomes 1; regions of the Metadata Working Group, of Microsoft and of IPTC turn along.
    """
    packet = _ORIENTATION.sub(rb"\g<1>1", packet)
    if orientation == 1 or not any(name in packet for name in (b"Area#", b"Region#", b"RegionBoundary")):
        return packet
    root = parse(packet)
    if root is None:
        return packet
    for element in root.iter():
        if element.tag == f"{{{_REGIONS}}}Regions":
            _turn_working_group(element, orientation, size)
        _turn_microsoft(element, orientation)
        if element.tag == f"{{{_IPTC_EXT}}}RegionBoundary":
            _turn_iptc(element, orientation, size)
    return serialised(root)


def _turned_point(x: float, y: float, orientation: int, width: float = 1, height: float = 1) -> tuple[float, float]:
    """Where a point of the stored picture is shown."""
    return {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[orientation]


class _Fields:
    """Numbers that RDF may write as attributes or as elements, of one node or of the description in it."""

    def __init__(self, node: ET.Element, namespace: str) -> None:
        inner = node.find(f"{{{RDF}}}Description")
        self._nodes = [node] if inner is None else [inner, node]
        self._namespace = namespace

    def get(self, name: str) -> float | None:
        text = self.text(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            return None

    def text(self, name: str) -> str | None:
        key = f"{{{self._namespace}}}{name}"
        for node in self._nodes:
            if key in node.attrib:
                return node.attrib[key]
            if (child := node.find(key)) is not None:
                return child.text
        return None

    def set(self, name: str, value: float) -> None:
        key, text = f"{{{self._namespace}}}{name}", f"{value:.6f}".rstrip("0").rstrip(".")
        for node in self._nodes:
            if key in node.attrib:
                node.set(key, text)
            elif (child := node.find(key)) is not None:
                child.text = text

    def swap(self, one: str, other: str) -> None:
        first, second = self.get(one), self.get(other)
        if first is not None and second is not None:
            self.set(one, second)
            self.set(other, first)


def _turn_working_group(regions: ET.Element, orientation: int, size: tuple[int, int]) -> None:
    """Centres and sizes as shares of the picture; a record for the turned picture already stays as it is."""
    for applied in regions.iter(f"{{{_REGIONS}}}AppliedToDimensions"):
        sides = _Fields(applied, _DIMENSIONS)
        width, height = sides.get("w"), sides.get("h")
        if orientation >= 5 and width and height:
            if (width > height) != (size[0] > size[1]) and size[0] != size[1]:
                return
            sides.swap("w", "h")
    for area in regions.iter(f"{{{_REGIONS}}}Area"):
        fields = _Fields(area, _AREA)
        x, y = fields.get("x"), fields.get("y")
        if x is None or y is None:
            continue
        x, y = _turned_point(x, y, orientation)
        fields.set("x", x)
        fields.set("y", y)
        if orientation >= 5:
            fields.swap("w", "h")


def _turn_microsoft(element: ET.Element, orientation: int) -> None:
    """ "left, top, width, height" as shares of the picture."""
    key = f"{{{_MP_REGION}}}Rectangle"
    if key in element.attrib:
        element.set(key, _turned_rectangle(element.attrib[key], orientation))
    if element.tag == key and element.text:
        element.text = _turned_rectangle(element.text, orientation)


def _turned_rectangle(text: str, orientation: int) -> str:
    try:
        left, top, width, height = (float(v) for v in text.split(","))
    except ValueError:
        return text
    x, y = _turned_point(left + width / 2, top + height / 2, orientation)
    if orientation >= 5:
        width, height = height, width
    return ", ".join(f"{v:.6f}" for v in (x - width / 2, y - height / 2, width, height))


def _turn_iptc(boundary: ET.Element, orientation: int, size: tuple[int, int]) -> None:
    fields = _Fields(boundary, _IPTC_EXT)
    width, height = size if fields.text("rbUnit") == "pixel" else (1, 1)
    x, y, w, h = (fields.get(name) for name in ("rbX", "rbY", "rbW", "rbH"))
    if x is not None and y is not None:
        corner = w is not None and h is not None
        middle = (x + w / 2, y + h / 2) if w is not None and h is not None else (x, y)
        if orientation >= 5:
            fields.swap("rbW", "rbH")
            w, h = h, w
        x, y = _turned_point(*middle, orientation, width, height)
        fields.set("rbX", x - w / 2 if corner and w is not None else x)
        fields.set("rbY", y - h / 2 if corner and h is not None else y)
    radius = fields.get("rbRx")
    if radius is not None and orientation >= 5 and fields.text("rbUnit") != "pixel":
        fields.set("rbRx", radius * size[0] / size[1])  # a share of the width, which was the height
    for vertex in boundary.iter(f"{{{RDF}}}li"):
        point = _Fields(vertex, _IPTC_EXT)
        x, y = point.get("rbX"), point.get("rbY")
        if x is not None and y is not None:
            x, y = _turned_point(x, y, orientation, width, height)
            point.set("rbX", x)
            point.set("rbY", y)


# --- what a packet announces ------------------------------------------------------------------------------------------


def announced(packet: bytes) -> tuple[str, ...]:
    """What the packet says to be elsewhere in the file: motion photo, gain map, depth map, and so on."""
    root = parse(packet)
    return () if root is None else tuple(dict.fromkeys(_announcements(root)))


def _announcements(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        for key in (element.tag, *element.attrib):
            if what := _announces(key):
                yield what
        semantic = element.attrib.get(f"{{{_ITEM}}}Semantic") or (
            element.text if element.tag == f"{{{_ITEM}}}Semantic" else None
        )
        if semantic in _SEMANTICS:
            yield _SEMANTICS[semantic]


def _announces(key: str) -> str | None:
    namespace, _, name = key[1:].partition("}")
    if namespace == _CAMERA:
        return MOTION_PHOTO if name.startswith(_MOTION_NAMES) else None
    return _ANNOUNCING.get(namespace)


def without_announcements(packet: bytes) -> bytes:
    """The packet without any property that announces something beside the picture; unchanged if there is none."""
    root = parse(packet)
    if root is None or not any(True for _ in _announcements(root)):
        return packet
    for parent in list(root.iter()):
        for key in [key for key in parent.attrib if _announces(key)]:
            del parent.attrib[key]
        for child in list(parent):
            if _announces(child.tag) or child.tag == f"{{{_CONTAINER}}}Directory":
                parent.remove(child)
    return serialised(root)
