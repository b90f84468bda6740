"""Sheet music: how fast a tune is drawn, and whether the notes on the page are those of the tune.

    python benchmarks/engraving.py            all of music21's ABC books, some minutes
    python benchmarks/engraving.py --tunes N  N of them
    python benchmarks/engraving.py --toy      a few tunes, seconds

Truth: every note read off the page by signs, signatures and ties alone (tests/read_svg.py), against
the tune's; every id in the picture; and a tenth of the tunes written as MusicXML and read again by
way of music21. Speed: 32 bars of `folk`, one core, everything loaded; the share of each step.
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
    parser.add_argument("--tunes", type=int, help="how many real tunes; all of them by default")
    options = parser.parse_args()
    truth(list(real(20 if options.toy else options.tunes)))
    speed(3 if options.toy else 50)


def real(count: int | None) -> Iterator[Score]:
    """Yield tunes of music21's books in an order of chance, the same one each time."""
    texts = all_tunes()
    for text in random.Random(0).sample(texts, min(count or len(texts), len(texts))):
        yield from abc.parse(text, "")[0]


def truth(tunes: list[Score]) -> None:
    """Print how many tunes are on the page, in the picture and in the file as they are."""
    found: Counter[str] = Counter()
    notes = 0
    for place, score in enumerate(tunes):
        notes += len(score.notes)
        found["on the page"] += is_on_the_page(score)
        found["in the picture"] += is_in_the_picture(score)
        if place % 10 == 0:
            found["written as MusicXML"] += 1
            found["read back"] += is_back(score)
    print(f"{len(tunes):,} tunes, {notes:,} notes")
    for name in ("on the page", "in the picture"):
        print(f"{100 * found[name] / len(tunes):6.2f} % {name} note for note ({found[name]:,})")
    asked, back = found["written as MusicXML"], found["read back"]
    print(f"{100 * back / asked:6.2f} % equal after MusicXML ({back:,} of {asked:,})")


def is_on_the_page(score: Score) -> bool:
    lengths = [bar.steps for bar in find_bars(score)] or [score.meter.steps]
    page = read_svg.read(mei.render(build_sheet(score)), lengths)
    seen = [page.notes.get(f"n{index}") for index in range(len(score.notes))]
    same = seen == [(note.onset, note.pitch, note.duration, note.part) for note in score.notes]
    full = all(end == length for end, length in page.layers)
    return same and full and len(page.notes) == len(score.notes)


def is_in_the_picture(score: Score) -> bool:
    names = re.findall(r' id="([nm]\d+)"', engrave(score))
    wanted = [f"n{index}" for index in range(len(score.notes))]
    wanted += [f"m{index}" for index in range(len(find_bars(score)))]
    return sorted(names) == sorted(wanted)


def is_back(score: Score) -> bool:
    scores, _ = musicxml.parse(musicxml.render(score))
    return [back.canonical() for back in scores] == [score.canonical()]


def speed(rounds: int) -> None:
    """Print the medians of some tunes, each drawn once after the first."""
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
    print(f"32 bars, medians of {rounds}, from the score on:")
    for name, draw in steps:
        spent = [timed(draw, tunes[1 + turn % (len(tunes) - 1)]) for turn in range(rounds)]
        print(f"{1000 * statistics.median(spent):8.1f} ms to {name}")
    sizes = statistics.median(len(engrave(tune).encode()) for tune in tunes)
    print(f"{sizes / 1000:8.1f} kB of SVG")


def timed(draw: Callable[[Score], object], score: Score) -> float:
    start = time.process_time()
    draw(score)
    return time.process_time() - start


if __name__ == "__main__":
    main()
