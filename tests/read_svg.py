"""Independent reader of MEI: notes from note heads, accidentals, key signatures and ties.

It shares no code with the writer, and ignores sounding pitches (accid.ges, pnum) except for drums.
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
    """A note as read from the page, in steps; onsets in tuplets are rounded."""

    onset: int
    pitch: int
    duration: int
    part: int


class Page(NamedTuple):
    """The notes by id, and the length of each layer with that of its measure."""

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
                layer_symbols = list(_symbols(layer, Fraction(0), length))
                layers.append((layer_symbols[-1].end, length))
                symbols += layer_symbols
            heads.update(_read_staff(symbols, start, number - 1, keys.get(number, 0), heads, ties))
        ties.update({tie.attrib["endid"][1:]: tie.attrib["startid"][1:]
                     for tie in element.findall("tie")})  # fmt: skip
        for head_id, first_id in ties.items():
            if (
                head_id in heads
                and first_id in heads
                and heads[head_id].pitch != heads[first_id].pitch
            ):
                heads[head_id] = heads[head_id]._replace(pitch=heads[first_id].pitch)
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
    parent: ElementTree.Element, position: Fraction, measure: int, scale: Fraction = Fraction(1)
) -> Iterator[_Symbol]:
    for element in parent:
        if element.tag in ("beam", "tuplet"):
            inner = scale
            if element.tag == "tuplet":
                inner *= Fraction(int(element.attrib["numbase"]), int(element.attrib["num"]))
            for symbol in _symbols(element, position, measure, inner):
                yield symbol
                position = symbol.end
        elif element.tag in ("note", "chord", "rest", "space", "mRest"):
            length = scale * _length(element) if element.tag != "mRest" else Fraction(measure)
            heads = tuple(element) if element.tag == "chord" else (element,)
            sounding_heads = heads if element.tag in ("note", "chord") else ()
            yield _Symbol(position, position + length, sounding_heads)
            position += length


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
    """Yield the heads of a staff in a measure; accidentals hold in their octave to its end."""
    accidentals: dict[tuple[str, str], int] = {}
    for symbol in sorted(symbols, key=lambda symbol: symbol.onset):
        for head in symbol.heads:
            head_id, letter_and_octave = (
                head.attrib["name"],
                (head.attrib["pname"], head.attrib["oct"]),
            )
            onset, end = start + _rounded(symbol.onset), start + _rounded(symbol.end)
            if "pnum" in head.attrib:
                pitch = int(head.attrib["pnum"])
            elif head_id in ties and ties[head_id] in before and "accid" not in head.attrib:
                pitch = before[ties[head_id]].pitch
            else:
                if "accid" in head.attrib:
                    accidentals[letter_and_octave] = ALTERED[head.attrib["accid"]]
                alteration = accidentals.get(
                    letter_and_octave, _signature(fifths, letter_and_octave[0])
                )
                pitch = (
                    12 * (int(letter_and_octave[1]) + 1)
                    + NATURALS[letter_and_octave[0]]
                    + alteration
                )
            yield head_id, Seen(onset, pitch, end - onset, part)


def _signature(fifths: int, letter: str) -> int:
    index = SHARPS.index(letter)
    return (index < fifths) - (6 - index < -fifths)


def _rounded(steps: Fraction) -> int:
    return int((2 * steps + 1) // 2)


def _joined(heads: dict[str, Seen], ties: dict[str, str]) -> dict[str, Seen]:
    """Join tied heads under the id of the first one."""
    next_ids = defaultdict(list)
    for end, start in ties.items():
        next_ids[start].append(end)
    joined = {}
    for head_id, head in heads.items():
        if head_id in ties:
            continue
        last_id = head_id
        while next_ids[last_id]:
            (last_id,) = next_ids[last_id]
        stop = heads[last_id].onset + heads[last_id].duration
        joined[head_id] = head._replace(duration=stop - head.onset)
    return joined
