"""What each codec makes of the same tunes: ids, what is lost, how far onsets move.

python benchmarks/codecs.py            the chorales of music21's corpus, a few minutes
python benchmarks/codecs.py --toy      four of them
python benchmarks/codecs.py --example  the ids of a small tune in each codec: docs/codecs.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from musicgen.formats import abc, musicxml
from musicgen.music.performance import to_performance
from musicgen.music.score import Score
from musicgen.tokens.codec import AnyCodec, find_first_illegal
from musicgen.tokens.registry import CODECS, find_codec

EXAMPLE = "X:1\nT:Small\nR:jig\nM:6/8\nL:1/8\nQ:3/8=100\nK:G\n|:D|G2A B2c|(3ABA G-G2:|\n"
NOTES = ("measures", "performance", "frames", "frames-16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--example", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.example:
        print("\n".join(example()))
        return
    scores = list(chorales(4 if options.toy else None))
    rows = [measured(find_codec(name), scores) for name in NOTES]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"ratio of ids, performance to measures: {rows[1]['ids'] / rows[0]['ids']:.2f}")


def example() -> Iterator[str]:
    """Show a small tune in each codec."""
    (score,), _ = abc.parse(EXAMPLE)
    for name, codec in CODECS.items():
        text = codec.unit == "character"
        fitted = codec.fit([EXAMPLE.strip()]) if text else codec  # type: ignore[attr-defined]
        encoded = fitted.encode(EXAMPLE.strip() if text else score)
        names = fitted.vocabulary.names
        yield f"\n{name}: {len(encoded.ids)} ids of {len(names)} events, {encoded.lost} lost"
        yield " ".join(repr(names[id_])[1:-1] for id_ in encoded.ids)


def chorales(count: int | None) -> Iterator[Score]:
    import music21

    folder = Path(music21.__file__).parent / "corpus" / "bach"
    for path in sorted(folder.glob("bwv*.mxl"))[:count]:
        scores, _ = musicxml.parse(path.read_bytes(), path.name)
        yield from scores


def measured(codec: AnyCodec, scores: Sequence[Score]) -> dict[str, Any]:
    """Encode, decode and encode all scores."""
    ids = notes = lost = unequal = illegal = worst = 0
    for score in scores:
        encoded = codec.encode(score)
        decoded = codec.decode(encoded.ids, encoded.setting)
        unequal += codec.encode(decoded.piece).ids != encoded.ids or decoded.dropped > 0
        walk = codec.walk(encoded.setting, strict=False)
        illegal += find_first_illegal(encoded.ids, walk) is not None
        ids, lost = ids + len(encoded.ids), lost + encoded.lost
        notes += len(score.unfolded().notes)
        worst = max(worst, moved(score, decoded.piece))
    return {
        "codec": codec.name, "events": len(codec.vocabulary), "tunes": len(scores),
        "notes": notes, "ids": ids, "ids_a_note": round(ids / notes, 2), "lost": lost,
        "not_equal_again": unequal, "not_in_grammar": illegal, "onset_moves_ms": worst,
    }  # fmt: skip


def moved(before: Score, after: Score) -> int:
    """Return how far the onset of a note that is there is, at the most, from one in the score."""
    onsets: dict[int, list[int]] = {}
    for note in to_performance(before).notes:
        onsets.setdefault(note.pitch, []).append(note.onset)
    nearest = (
        min(abs(onset - note.onset) for onset in onsets[note.pitch])
        for note in to_performance(after).notes
    )
    return max(nearest, default=0)


if __name__ == "__main__":
    main()
