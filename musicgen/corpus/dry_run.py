"""The doctor's visit: a build that is thrown away, and what it says of every tune.

found = kept + refused, always. Relatives are listed in groups, those that were left out as
duplicates with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musicgen.corpus.build import Tell, build
from musicgen.corpus.parquet_rows import Rows
from musicgen.corpus.report import Report, place_of
from musicgen.corpus.sandbox import Limits
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import Refusal
from musicgen.tokens.codec import AnyCodec


@dataclass(frozen=True, slots=True)
class Member:
    """A tune of a group of relatives."""

    source: str
    place: str
    key: str
    relation: str  # to the tune that it is like: exact, transposed, rescaled, variant
    like: str  # that tune's place and file; "" for the group's first
    part: str  # "" where it was left out


@dataclass(frozen=True)
class Checkup:
    """What became of every tune of some sources."""

    dataset: Dataset
    report: Report

    def kept(self) -> Iterator[dict[str, Any]]:
        """Yield what is known of each tune that is kept."""
        for part, tune in self.dataset:
            yield {
                "source": tune.source,
                "place": place_of(tune.number, tune.title),
                "title": tune.title,
                "key": tune.key,
                "meter": tune.meter,
                "rhythm": tune.rhythm,
                "notes": tune.notes,
                "part": part,
                "group": tune.group,
                "relation": tune.relation,
                "remarks": list(tune.remarks),
            }

    def refused(self) -> Iterator[dict[str, str]]:
        """Yield where and why each other one was left out."""
        for refusal in self.report.refusals:
            names = ("source", "place", "code", "message")
            yield {name: getattr(refusal, name) for name in names}

    def groups(self) -> dict[str, list[Member]]:
        """Return the groups of more than one tune, by their names; the first member leads."""
        leaders = self._leaders()
        found: dict[str, list[Member]] = {}
        for part, tune in self.dataset:
            if tune.relation or tune.content in leaders:
                like = leaders.get(tune.like, ("", ""))[0]
                found.setdefault(tune.group, []).append(_member(part, tune, like))
        for refusal, relation, like in self._duplicates():
            name, group = leaders[like]
            member = Member(refusal.source, refusal.place, "", relation, name, "")
            found.setdefault(group, []).append(member)
        return {
            group: sorted(members, key=lambda m: (m.relation != "", m.source, m.place))
            for group, members in sorted(found.items())
        }

    def _leaders(self) -> dict[str, tuple[str, str]]:
        """Return name and group of each tune that another is like, by content."""
        wanted = {like for _, _, like in self._duplicates()}
        wanted |= {tune.like for _, tune in self.dataset if tune.relation}
        return {
            tune.content: (f"{place_of(tune.number, tune.title)} in {tune.source}", tune.group)
            for _, tune in self.dataset
            if tune.content in wanted
        }

    def _duplicates(self) -> Iterator[tuple[Refusal, str, str]]:
        refusals = self.report.refusals
        assert isinstance(refusals, Rows)
        pairs = zip(_texts(refusals, "relation"), _texts(refusals, "like"), strict=True)
        for refusal, (relation, like) in zip(refusals, pairs, strict=True):
            if like:
                yield refusal, relation, like

    def to_json(self) -> Iterator[str]:
        """Yield it as one JSON object, piece by piece."""
        counts = {"codes": self.report.codes, "remarks": self.report.remarks}
        head = {"found": self.report.found, "files": self.report.files, "counts": counts}
        yield json.dumps(head)[:-1]
        for name, rows in (("kept", self.kept()), ("refused", self.refused())):
            yield f',\n"{name}": ['
            yield from _items(rows)
            yield "]"
        groups = {name: [asdict(m) for m in members] for name, members in self.groups().items()}
        yield f',\n"groups": {json.dumps(groups)}}}\n'


def check(
    sources: Iterable[str | Path],
    *,
    codec: AnyCodec | None = None,
    jobs: int = 1,
    limits: Limits | None = None,
    progress: Tell | None = None,
) -> Checkup:
    """Read all tunes of the sources and say what became of each."""
    dataset, report = build(
        sources, codec=codec, jobs=jobs, limits=limits, progress=progress, least=0
    )
    return Checkup(dataset, report)


def _member(part: str, tune: EncodedTune, like: str) -> Member:
    place = place_of(tune.number, tune.title)
    return Member(tune.source, place, tune.key, tune.relation, like, part)


def _texts(rows: Rows[Any], name: str) -> Iterator[str]:
    for chunk in rows.column(name):
        yield from chunk.to_pylist()


def _items(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield (",\n" if number else "\n") + json.dumps(row)
