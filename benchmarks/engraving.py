"""Check engraved sheet music note by note, and measure how fast it is drawn.

    python benchmarks/engraving.py            all of music21's ABC books, a few minutes
    python benchmarks/engraving.py --tunes N  N of them
    python benchmarks/engraving.py --toy      a few tunes, seconds

Correctness: every note is read back from the page (accidentals, signatures and ties only, see
tests/read_svg.py) and compared with the tune; every element id must be in the SVG; every tenth tune
is written as MusicXML and read back by music21. Speed: tunes of 32 bars by `folk`, on one core,
after a warm-up; the time of each step.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import musicgen  # noqa: E402
from musicgen.formats import abc, musicxml  # noqa: E402
from musicgen.music.bars import find_bars  # noqa: E402
from musicgen.music.score import Score  # noqa: E402
from musicgen.notation import mei  # noqa: E402
from musicgen.notation.engraving import build_sheet  # noqa: E402
from musicgen.notation.score_images import engrave, engrave_png  # noqa: E402
from tests import read_svg  # noqa: E402
from tests.oracles import all_tunes  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="a few tunes, seconds")
    parser.add_argument("--tunes", type=int, help="number of real tunes; default: all")
    options = parser.parse_args()
    check_notes(list(sample_real_tunes(20 if options.toy else options.tunes)))
    measure_speed(3 if options.toy else 50)


def sample_real_tunes(count: int | None) -> Iterator[Score]:
    """Yield tunes of music21's books in random order, with a fixed seed."""
    texts = all_tunes()
    for text in random.Random(0).sample(texts, min(count or len(texts), len(texts))):
        yield from abc.parse(text, "")[0]


def check_notes(tunes: list[Score]) -> None:
    """Print how many tunes are complete on the page, in the SVG and after MusicXML."""
    counts: Counter[str] = Counter()
    notes = 0
    for index, score in enumerate(tunes):
        notes += len(score.notes)
        counts["correct on the page"] += is_on_page(score)
        counts["complete in the SVG"] += is_in_svg(score)
        if index % 10 == 0:
            counts["written as MusicXML"] += 1
            counts["read back"] += survives_musicxml(score)
    print(f"{len(tunes):,} tunes, {notes:,} notes")
    for name in ("correct on the page", "complete in the SVG"):
        print(f"{100 * counts[name] / len(tunes):6.2f} % {name}, note by note ({counts[name]:,})")
    written, read_back = counts["written as MusicXML"], counts["read back"]
    print(f"{100 * read_back / written:6.2f} % equal after MusicXML ({read_back:,} of {written:,})")


def is_on_page(score: Score) -> bool:
    lengths = [bar.steps for bar in find_bars(score)] or [score.meter.steps]
    page = read_svg.read(mei.render(build_sheet(score)), lengths)
    page_notes = [page.notes.get(f"n{index}") for index in range(len(score.notes))]
    has_same_notes = page_notes == [
        (note.onset, note.pitch, note.duration, note.part) for note in score.notes
    ]
    is_complete = all(end == length for end, length in page.layers)
    return has_same_notes and is_complete and len(page.notes) == len(score.notes)


def is_in_svg(score: Score) -> bool:
    svg_ids = re.findall(r' id="([nm]\d+)"', engrave(score))
    expected_ids = [f"n{index}" for index in range(len(score.notes))]
    expected_ids += [f"m{index}" for index in range(len(find_bars(score)))]
    return sorted(svg_ids) == sorted(expected_ids)


def survives_musicxml(score: Score) -> bool:
    scores, _ = musicxml.parse(musicxml.render(score))
    return [score_back.canonical() for score_back in scores] == [score.canonical()]


def measure_speed(rounds: int) -> None:
    """Print the median time of each step over several tunes."""
    model = musicgen.load("folk")
    tunes = [model.sample(seed=seed, bars=32).score for seed in range(min(rounds, 10) + 1)]
    steps: tuple[tuple[str, Callable[[Score], object]], ...] = (
        ("sheet", build_sheet),
        ("MEI", lambda score: mei.render(build_sheet(score))),
        ("SVG", engrave),
        ("PNG", engrave_png),
        ("MusicXML", musicxml.render),
    )
    engrave_png(tunes[0])
    print(f"32 bars, medians of {rounds}, starting from the score:")
    for name, draw in steps:
        seconds = [
            measure_cpu_seconds(draw, tunes[1 + round_number % (len(tunes) - 1)])
            for round_number in range(rounds)
        ]
        print(f"{1000 * statistics.median(seconds):8.1f} ms to {name}")
    sizes = statistics.median(len(engrave(tune).encode()) for tune in tunes)
    print(f"{sizes / 1000:8.1f} kB of SVG")


def measure_cpu_seconds(draw: Callable[[Score], object], score: Score) -> float:
    start_time = time.process_time()
    draw(score)
    return time.process_time() - start_time


if __name__ == "__main__":
    main()
