"""What became of every tune: kept, or left out for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from musicgen.corpus.store import EncodedTune
from musicgen.errors import Refusal


@dataclass(frozen=True, slots=True)
class Report:
    """The account of a build: found = kept + refused."""

    kept: int
    refusals: tuple[Refusal, ...]

    @property
    def found(self) -> int:
        """How many tunes the sources hold, those of a file that cannot be read as one."""
        return self.kept + len(self.refusals)

    @property
    def codes(self) -> Mapping[str, int]:
        """How many were refused, by reason code, the most frequent first."""
        counts = Counter(refusal.code or "other" for refusal in self.refusals)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def without_duplicates(
    tunes: Iterable[EncodedTune],
) -> tuple[list[EncodedTune], list[Refusal]]:
    """Keep one of the tunes with equal ids, the first by title and file; order by content."""
    kept: dict[str, EncodedTune] = {}
    refusals = []
    for tune in sorted(tunes, key=lambda tune: (tune.title, tune.source, tune.setting)):
        first = kept.setdefault(tune.content, tune)
        if first is not tune:
            refusals.append(_duplicate(tune, first))
    return [kept[content] for content in sorted(kept)], refusals


def _duplicate(tune: EncodedTune, first: EncodedTune) -> Refusal:
    return Refusal(
        f"its notes are those of {first.title!r} in {first.source}; it was left out",
        source=tune.source,
        place=f"tune {tune.title!r}",
        code="duplicate",
    )
