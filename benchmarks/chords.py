"""Measure chord symbols: are they read, does the accompaniment fit, are they recognised again.

    python benchmarks/chords.py                 the corpus nottingham-chords, minutes
    python benchmarks/chords.py FOLDER          any folder of tunes with chord symbols
    python benchmarks/chords.py --toy           two tunes, seconds

Read: quoted texts in the ABC files that are no chord symbol. Fit: notes of an accompaniment that
leave their bar or the span of their chord symbol. Recognised: each tune is accompanied by each
pattern, written as MIDI without its chord symbols and read back; a symbol counts as right if the
chord in the middle of its span has the same root and quality. Loudness: root mean square of the
accompaniment below that of the melody, mixed apart with the gains of the whole, for --sounds tunes.
"""

from __future__ import annotations

import argparse
import re
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from musicgen.corpus.sources import TuneFile, list_files
from musicgen.formats import midi
from musicgen.formats.abc.body import read_chord_symbol
from musicgen.music.accompaniment import PATTERNS, accompany, has_chord_symbols
from musicgen.music.bars import find_bars
from musicgen.music.chord_recognition import recognise_chords
from musicgen.music.score import Score
from musicgen.music.theory import ChordSymbol
from musicgen.render import synth
from musicgen.render.timeline import duration, timeline

QUOTED = re.compile(r'"([^"\n]*)"')
FIELD = re.compile(r"[A-Za-z]:(?![|:])|%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", nargs="?", default="nottingham-chords")
    parser.add_argument("--pattern", choices=PATTERNS, help="only this pattern; by default, all")
    parser.add_argument("--sounds", type=int, default=40, help="tunes whose loudness is measured")
    parser.add_argument("--toy", action="store_true", help="two tunes: seconds")
    options = parser.parse_args()
    files = list_files("nottingham" if options.toy else options.source)
    print_spellings(files)
    tunes = [score for file in files for score in file.read()[0]]
    tunes = [tune for tune in tunes if has_chord_symbols(tune)]
    print(f"{len(tunes):,} tunes with chord symbols")
    print("| pattern | notes | outside of bar or span | symbols | right | of the time |")
    print("|---|---|---|---|---|---|")
    names = [options.pattern] if options.pattern else list(PATTERNS)
    for name in names:
        print_pattern(tunes, name)
    print_loudness(tunes[:: max(1, len(tunes) // options.sounds)], names)


def print_spellings(files: Sequence[TuneFile]) -> None:
    texts: Counter[str] = Counter()
    for file in files:
        for _, data in file.iter_contents():
            if isinstance(data, bytes):
                lines = data.decode("latin-1").splitlines()
                texts.update(
                    t for line in lines if not FIELD.match(line) for t in QUOTED.findall(line)
                )
    unknown = {text: n for text, n in texts.items() if read_chord_symbol(text.strip()) is None}
    print(f"{texts.total():,} quoted texts, {len(texts)} spellings; no chord symbol: {unknown}")


def print_pattern(tunes: Sequence[Score], name: str) -> None:
    note_count = clashes = 0
    symbols = right = 0
    steps = right_steps = 0
    for tune in tunes:
        played = accompany(tune.unfolded(), name)
        note_count += len(played.notes) - len(tune.unfolded().notes)
        clashes += count_clashes(tune, accompany(tune, name))
        for span, is_right in compare_chords(played):
            symbols, right = symbols + 1, right + is_right
            steps, right_steps = steps + span, right_steps + span * is_right
    shares = f"{right / symbols:.2%} | {right_steps / steps:.2%}"
    print(f"| {name} | {note_count:,} | {clashes} | {symbols:,} | {shares} |")


def count_clashes(tune: Score, played: Score) -> int:
    bars = find_bars(tune)
    starts = [bar.start for bar in bars]
    changes = [mark.onset for mark in tune.of("chord")] + [tune.end]
    return sum(
        note.end > bars[bisect_right(starts, note.onset) - 1].end
        or note.end > changes[bisect_right(changes, note.onset)]
        for note in played.notes
        if note.part >= len(tune.parts)
    )


def compare_chords(played: Score) -> Iterator[tuple[int, bool]]:
    """Yield the length of each chord symbol in steps, and whether it is recognised."""
    written = [(mark.onset, ChordSymbol.parse(mark.value)) for mark in played.of("chord")]
    bare = replace(played, marks=tuple(mark for mark in played.marks if mark.kind != "chord"))
    (read,), _ = midi.parse(midi.render(bare), "bare.mid")
    recognised = recognise_chords(read)
    steps = [chord.step for chord in recognised]
    for (start, chord), (stop, _) in zip(written, [*written[1:], (played.end, None)], strict=True):
        if chord is not None and start < stop:
            index = bisect_right(steps, (start + stop) // 2) - 1
            other = ChordSymbol.parse(recognised[index].symbol) if index >= 0 else None
            is_right = other is not None and other.root == chord.root
            yield stop - start, is_right and other.quality == chord.quality


def print_loudness(tunes: Sequence[Score], names: Sequence[str]) -> None:
    started = time.perf_counter()
    decibels = [measure_distance(tune, name) for tune in tunes for name in names]
    seconds = time.perf_counter() - started
    low, middle, high = np.percentile(decibels, [0, 50, 100])
    print(
        f"accompaniment below the melody: {low:.1f} to {high:.1f} dB, median {middle:.1f}"
        f" ({len(decibels)} mixes, {seconds:.1f} s)"
    )


def measure_distance(tune: Score, name: str) -> float:
    played = accompany(tune, name)
    groups = synth._limit_lengths(synth._group_by_key(timeline(played), played.parts))
    gains = synth._balance_parts(groups, played.parts)
    gains = synth._balance_accompaniment(groups, played.parts, gains)
    is_added = np.arange(len(played.parts)) >= len(tune.parts)
    samples = round(duration(played) * 44_100)
    melody, added = (
        float(np.square(synth._mix_notes(groups, 0.0, gains * mask)[:, :samples]).mean())
        for mask in (~is_added, is_added)
    )
    return float(10 * np.log10(melody / added))


if __name__ == "__main__":
    main()
