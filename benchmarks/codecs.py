"""Compare the codecs on the same tunes: number of ids, lost notes, onset errors.

python benchmarks/codecs.py            the chorales of music21's corpus, a few minutes
python benchmarks/codecs.py --toy      four chorales
python benchmarks/codecs.py --example  the ids of a small tune in each codec, as in docs/codecs.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from musicgen.formats import abc, musicxml
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Score
from musicgen.tokens.codec import AnyCodec, find_first_illegal
from musicgen.tokens.registry import CODECS, find_codec

EXAMPLE = "X:1\nT:Small\nR:jig\nM:6/8\nL:1/8\nQ:3/8=100\nK:G\n|:D|G2A B2c|(3ABA G-G2:|\n"
NOTE_CODECS = ("measures", "performance", "frames", "frames-16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--example", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.example:
        print("\n".join(format_examples()))
        return
    scores = list(read_chorales(4 if options.toy else None))
    rows = [measure_codec(find_codec(name), scores) for name in NOTE_CODECS]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"ratio of ids, performance to measures: {rows[1]['ids'] / rows[0]['ids']:.2f}")


def format_examples() -> Iterator[str]:
    """Yield a small tune as ids of each codec."""
    (score,), _ = abc.parse(EXAMPLE)
    for name, codec in CODECS.items():
        is_text = codec.unit == "character"
        fitted_codec = codec.fit([EXAMPLE.strip()]) if is_text else codec  # type: ignore[attr-defined]
        encoded = fitted_codec.encode(EXAMPLE.strip() if is_text else score)
        names = fitted_codec.vocabulary.names
        yield f"\n{name}: {len(encoded.ids)} ids of {len(names)} events, {encoded.lost} lost"
        yield " ".join(repr(names[id_])[1:-1] for id_ in encoded.ids)


def read_chorales(count: int | None) -> Iterator[Score]:
    import music21

    folder = Path(music21.__file__).parent / "corpus" / "bach"
    for path in sorted(folder.glob("bwv*.mxl"))[:count]:
        scores, _ = musicxml.parse(path.read_bytes(), path.name)
        yield from scores


def measure_codec(codec: AnyCodec, scores: Sequence[Score]) -> dict[str, Any]:
    """Encode, decode and re-encode all scores; return what was counted."""
    ids = notes = lost = unequal_count = illegal_count = largest_error = 0
    for score in scores:
        encoded = codec.encode(score)
        decoded = codec.decode(encoded.ids, encoded.setting)
        unequal_count += codec.encode(decoded.piece).ids != encoded.ids or decoded.dropped > 0
        grammar = codec.create_grammar(encoded.setting, strict=False)
        illegal_count += find_first_illegal(encoded.ids, grammar) is not None
        ids, lost = ids + len(encoded.ids), lost + encoded.lost
        notes += len(score.unfolded().notes)
        largest_error = max(largest_error, find_largest_onset_error(score, decoded.piece))
    return {
        "codec": codec.name, "events": len(codec.vocabulary), "tunes": len(scores),
        "notes": notes, "ids": ids, "ids_per_note": round(ids / notes, 2), "lost": lost,
        "unequal_after_round_trip": unequal_count, "illegal": illegal_count,
        "largest_onset_error_ms": largest_error,
    }  # fmt: skip


def find_largest_onset_error(original: Score, decoded_score: Score) -> int:
    """Return the largest distance, in ms, of a decoded onset from the nearest original one."""
    onsets: dict[int, list[int]] = {}
    for note in to_performance(original).notes:
        onsets.setdefault(note.pitch, []).append(note.onset)
    nearest = (
        min(abs(onset - note.onset) for onset in onsets[note.pitch])
        for note in to_performance(decoded_score).notes
    )
    return max(nearest, default=0)


if __name__ == "__main__":
    main()
