"""Check a corpus: build a data set, report on every tune, and throw the data set away.

found = kept + refused, always. Related tunes are listed in groups, which include the duplicates
that were left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musicgen.corpus.build import BuildCallback, build
from musicgen.corpus.build_report import Report, format_place
from musicgen.corpus.disk_storage import ParquetRows
from musicgen.corpus.sandbox import ReadLimits
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import Refusal
from musicgen.music.roles import find_roles
from musicgen.tokens.codec import AnyCodec, ScoreCodec, Setting
from musicgen.tokens.registry import find_codec


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A tune of a group of related tunes."""

    source: str
    place: str
    key: str
    relation: str  # to the tune in `like`: exact, transposed, rescaled, variant
    like: str  # place and file of the related tune; "" for the first of the group
    part: str  # split; "" if it was left out


@dataclass(frozen=True)
class DryRunResult:
    """The result of checking sources: the temporary data set and its report."""

    dataset: Dataset
    report: Report

    def iter_kept(self) -> Iterator[dict[str, Any]]:
        """Yield the metadata of each kept tune as a JSON object."""
        for part, tune in self.dataset:
            if tune.order:
                continue
            yield {
                "source": tune.source,
                "place": format_place(tune.number, tune.title),
                "title": tune.title,
                "key": tune.key,
                "meter": tune.meter,
                "rhythm": tune.rhythm,
                "notes": tune.notes,
                "part": part,
                "group": tune.group,
                "relation": tune.relation,
                "remarks": list(tune.remarks),
                "parts": self.list_parts(tune),
            }

    def list_parts(self, tune: EncodedTune) -> list[dict[str, Any]]:
        """Return name, program and role of each part of a tune as JSON; nothing for texts."""
        codec = find_codec(self.dataset.codec)
        if not isinstance(codec, ScoreCodec):
            return []
        score = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score
        return [
            {
                "name": part.name,
                "program": part.program,
                "role": role.name,
                "confidence": round(role.confidence, 2),
            }
            for part, role in zip(score.parts, find_roles(score), strict=True)
        ]

    def iter_refused(self) -> Iterator[dict[str, str]]:
        """Yield the place and reason of each refusal as a JSON object."""
        for refusal in self.report.refusals:
            names = ("source", "place", "code", "message")
            yield {name: getattr(refusal, name) for name in names}

    def group_relatives(self) -> dict[str, list[GroupMember]]:
        """Return the groups of more than one tune by group name, the first tune of each first."""
        leaders = self._index_leaders()
        groups: dict[str, list[GroupMember]] = {}
        for part, tune in self.dataset:
            if tune.relation or tune.content in leaders:
                like = leaders.get(tune.like, ("", ""))[0]
                groups.setdefault(tune.group, []).append(_make_member(part, tune, like))
        for refusal, relation, like in self._iter_duplicates():
            name, group = leaders[like]
            member = GroupMember(refusal.source, refusal.place, "", relation, name, "")
            groups.setdefault(group, []).append(member)
        return {
            group: sorted(members, key=lambda m: (m.relation != "", m.source, m.place))
            for group, members in sorted(groups.items())
        }

    def _index_leaders(self) -> dict[str, tuple[str, str]]:
        """Return name and group of each tune that another one is related to, by content hash."""
        wanted = {like for _, _, like in self._iter_duplicates()}
        wanted |= {tune.like for _, tune in self.dataset if tune.relation}
        return {
            tune.content: (f"{format_place(tune.number, tune.title)} in {tune.source}", tune.group)
            for _, tune in self.dataset
            if tune.content in wanted
        }

    def _iter_duplicates(self) -> Iterator[tuple[Refusal, str, str]]:
        refusals = self.report.refusals
        assert isinstance(refusals, ParquetRows)
        pairs = zip(
            _iter_column_texts(refusals, "relation"),
            _iter_column_texts(refusals, "like"),
            strict=True,
        )
        for refusal, (relation, like) in zip(refusals, pairs, strict=True):
            if like:
                yield refusal, relation, like

    def iter_json(self) -> Iterator[str]:
        """Yield the text of one JSON object with counts, kept tunes, refusals and groups."""
        counts = {"codes": self.report.codes, "remarks": self.report.remarks}
        head = {"found": self.report.found, "files": self.report.files, "counts": counts}
        yield json.dumps(head)[:-1]
        for name, rows in (("kept", self.iter_kept()), ("refused", self.iter_refused())):
            yield f',\n"{name}": ['
            yield from _iter_json_items(rows)
            yield "]"
        groups = {
            name: [asdict(m) for m in members] for name, members in self.group_relatives().items()
        }
        yield f',\n"groups": {json.dumps(groups)}}}\n'


def check_sources(
    sources: Iterable[str | Path],
    *,
    codec: AnyCodec | None = None,
    jobs: int = 1,
    limits: ReadLimits | None = None,
    progress: BuildCallback | None = None,
) -> DryRunResult:
    """Read all tunes of the sources and report on each; the arguments are those of `build`."""
    dataset, report = build(
        sources, codec=codec, jobs=jobs, limits=limits, progress=progress, min_tunes=0
    )
    return DryRunResult(dataset, report)


def _make_member(part: str, tune: EncodedTune, like: str) -> GroupMember:
    place = format_place(tune.number, tune.title)
    return GroupMember(tune.source, place, tune.key, tune.relation, like, part)


def _iter_column_texts(rows: ParquetRows[Any], name: str) -> Iterator[str]:
    for chunk in rows.iter_column(name):
        yield from chunk.to_pylist()


def _iter_json_items(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield (",\n" if number else "\n") + json.dumps(row)
