"""What a reader of the page sees: the notes of MEI by signs, signatures and ties alone.

Written apart from the writer: of sounding pitches (accid.ges, pnum) only the drums' are used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple
from xml.etree import ElementTree

STEPS_PER_WHOLE = 192
ALTERED = {"s": 1, "x": 2, "f": -1, "ff": -2, "n": 0}
NATURALS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
SHARPS = "fcgdaeb"


class Seen(NamedTuple):
    """A note as it is read off the page, in steps; tuplets round their edges."""

    onset: int
    pitch: int
    duration: int
    part: int


class Page(NamedTuple):
    """The notes by their ids, and how long each layer of each measure is beside the measure."""

    notes: dict[str, Seen]
    layers: list[tuple[Fraction, int]]


class _Symbol(NamedTuple):
    onset: Fraction
    end: Fraction
    heads: tuple[ElementTree.Element, ...]


def read(text: str, lengths: list[int]) -> Page:
    """Read a page whose measures have these lengths in steps."""
    root = ElementTree.fromstring(_plain(text))
    keys: dict[int, int] = {}
    heads: dict[str, Seen] = {}
    ties: dict[str, str] = {}
    layers: list[tuple[Fraction, int]] = []
    start = 0
    measures = iter(lengths)
    for element in root.iter():
        if element.tag == "staffDef" and element.find("keySig") is not None:
            keys[int(element.attrib["n"])] = _fifths(element.find("keySig"))
        if element.tag != "measure":
            continue
        length = next(measures)
        for staff in element.findall("staff"):
            number = int(staff.attrib["n"])
            symbols = []
            for layer in staff.findall("layer"):
                found = list(_symbols(layer, Fraction(0), length))
                layers.append((found[-1].end, length))
                symbols += found
            heads.update(_read_staff(symbols, start, number - 1, keys.get(number, 0), heads, ties))
        ties.update({tie.attrib["endid"][1:]: tie.attrib["startid"][1:]
                     for tie in element.findall("tie")})  # fmt: skip
        for name, first in ties.items():
            if name in heads and first in heads and heads[name].pitch != heads[first].pitch:
                heads[name] = heads[name]._replace(pitch=heads[first].pitch)
        start += length
    return Page(_joined(heads, ties), layers)


def _plain(text: str) -> str:
    return text.replace(' xmlns="http://www.music-encoding.org/ns/mei"', "").replace(
        "xml:id=", "name="
    )


def _fifths(key: ElementTree.Element | None) -> int:
    assert key is not None
    sign = key.attrib["sig"]
    return int(sign.rstrip("sf")) * (-1 if sign.endswith("f") else 1)


def _symbols(
    parent: ElementTree.Element, now: Fraction, measure: int, scale: Fraction = Fraction(1)
) -> Iterator[_Symbol]:
    for element in parent:
        if element.tag in ("beam", "tuplet"):
            inner = scale
            if element.tag == "tuplet":
                inner *= Fraction(int(element.attrib["numbase"]), int(element.attrib["num"]))
            for symbol in _symbols(element, now, measure, inner):
                yield symbol
                now = symbol.end
        elif element.tag in ("note", "chord", "rest", "space", "mRest"):
            length = scale * _length(element) if element.tag != "mRest" else Fraction(measure)
            heads = tuple(element) if element.tag == "chord" else (element,)
            shown = heads if element.tag in ("note", "chord") else ()
            yield _Symbol(now, now + length, shown)
            now += length


def _length(element: ElementTree.Element) -> Fraction:
    name = element.attrib["dur"]
    plain = (
        Fraction(2 * STEPS_PER_WHOLE) if name == "breve" else Fraction(STEPS_PER_WHOLE, int(name))
    )
    return plain * (2 - Fraction(1, 2 ** int(element.attrib.get("dots", "0"))))


def _read_staff(
    symbols: list[_Symbol],
    start: int,
    part: int,
    fifths: int,
    before: dict[str, Seen],
    ties: dict[str, str],
) -> Iterator[tuple[str, Seen]]:
    """Yield the heads of a staff in a measure: signs hold in their octave to its end."""
    known: dict[tuple[str, str], int] = {}
    for symbol in sorted(symbols, key=lambda symbol: symbol.onset):
        for head in symbol.heads:
            name, place = head.attrib["name"], (head.attrib["pname"], head.attrib["oct"])
            onset, end = start + _rounded(symbol.onset), start + _rounded(symbol.end)
            if "pnum" in head.attrib:
                pitch = int(head.attrib["pnum"])
            elif name in ties and ties[name] in before and "accid" not in head.attrib:
                pitch = before[ties[name]].pitch
            else:
                if "accid" in head.attrib:
                    known[place] = ALTERED[head.attrib["accid"]]
                altered = known.get(place, _signature(fifths, place[0]))
                pitch = 12 * (int(place[1]) + 1) + NATURALS[place[0]] + altered
            yield name, Seen(onset, pitch, end - onset, part)


def _signature(fifths: int, letter: str) -> int:
    place = SHARPS.index(letter)
    return (place < fifths) - (6 - place < -fifths)


def _rounded(steps: Fraction) -> int:
    return int((2 * steps + 1) // 2)


def _joined(heads: dict[str, Seen], ties: dict[str, str]) -> dict[str, Seen]:
    """Join what is tied; the first head gives its name."""
    following = defaultdict(list)
    for end, start in ties.items():
        following[start].append(end)
    found = {}
    for name, head in heads.items():
        if name in ties:
            continue
        last = name
        while following[last]:
            (last,) = following[last]
        stop = heads[last].onset + heads[last].duration
        found[name] = head._replace(duration=stop - head.onset)
    return found
