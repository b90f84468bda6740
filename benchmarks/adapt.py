"""What `--from folk` makes of twenty tunes of a region, region by region.

    python benchmarks/adapt.py            ten regions of Essen, about 25 minutes on two quiet cores
    python benchmarks/adapt.py --toy      two files of it, seconds, for continuous integration

Of each region of the Essen collection, as music21 brings it, the corpus doctor leaves unrelated
tunes; 20 of them, drawn by a seed, are learnt from for at most 2 minutes, and 50 others judge: bits
a note of `folk` as it is and of what it became, from the weights as they are stored. Beside that
stands the share of 8-note runs of its tunes that stand in the 20, and the same of the 50.

A region is what a tune's O: field names, continents and Germany as a whole left out; of several
names the one that the collection has most often. The ten regions with most tunes are taken. Those
that follow, and tunes that name no region, were there to choose the recipe by.

Each region that is done is a line of JSON in --results; what stands there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from musicgen.checkpoint import Checkpoint
from musicgen.corpus.build import build
from musicgen.corpus.sources import find_files
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.formats.abc import decode_bytes
from musicgen.model.network import LanguageModel
from musicgen.trained_model import Model, load
from musicgen.training.fine_tune import extend_embeddings
from musicgen.training.heldout_loss import evaluate
from musicgen.training.memorisation import (
    count_copied,
    extract_encoded_ngrams,
    extract_ngrams,
    merge_ngrams,
)
from musicgen.training.plan import TrainingOptions, adjust_split, make_plan
from musicgen.training.run import TrainingRun

GENERAL = re.compile(
    r"((Mittel|Ost|Nord|West|Sued|Suedost|Suedwest|Nordost)?europa|(Ost)?asien|Deutschland.*)?",
    re.IGNORECASE,
)
LEARNT, HELD, REGIONS, MINUTES, WRITTEN = 20, 50, 10, 2.0, 50


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    learnt: int = LEARNT
    held: int = HELD
    regions: int = REGIONS
    written: int = WRITTEN
    options: TrainingOptions = field(default_factory=lambda: TrainingOptions(minutes=MINUTES))


TOY = Size(3, 4, 2, 1, TrainingOptions(epochs=1, device="cpu"))


def read_texts(source: str, names: str) -> list[str]:
    """Return the tunes of a collection as they stand in its ABC files."""
    found = []
    for file in find_files(source).files:
        if re.search(names, file.name):
            text = decode_bytes(file.path.read_bytes())
            starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
            stops = [*starts[1:], len(text)]
            found += [text[a:b].strip() for a, b in zip(starts, stops, strict=True)]
    return found


def places(text: str) -> list[str]:
    """Return the regions that a tune's O: field names."""
    line = re.search(r"^O:(.*)$", text, re.MULTILINE)
    words = re.split("[,;/]", line[1]) if line else []
    return [word.strip() for word in words if not GENERAL.fullmatch(word.strip())]


def by_region(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the tunes of each region, the region with most tunes first."""
    often = Counter(name for text in texts for name in set(places(text)))
    found: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        named = sorted(places(text), key=lambda name: (-often[name], name))
        found[named[0] if named else ""].append(text)
    del found[""]
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def unrelated(regions: dict[str, list[str]], size: Size) -> dict[str, list[EncodedTune]]:
    """Return tunes of the largest regions, one of each group of relatives, in an order drawn."""
    with tempfile.TemporaryDirectory() as folder:
        for number, texts in enumerate(regions.values()):
            (Path(folder) / f"{number}.abc").write_text("\n\n".join([*texts, ""]), encoding="utf-8")
        dataset, _ = build([folder], jobs=1)
    groups: dict[int, dict[str, EncodedTune]] = defaultdict(dict)
    for _, tune in dataset:
        groups[int(Path(tune.source).stem)].setdefault(tune.group, tune)
    enough = sorted(
        (number for number in groups if len(groups[number]) >= size.learnt + size.held),
        key=lambda number: -len(groups[number]),
    )
    names = list(regions)
    return {names[number]: shuffled(groups[number], number) for number in enough[: size.regions]}


def shuffled(groups: dict[str, EncodedTune], seed: int) -> list[EncodedTune]:
    ordered = [groups[name] for name in sorted(groups)]
    return [ordered[place] for place in np.random.default_rng(seed).permutation(len(ordered))]


def measure(tunes: Sequence[EncodedTune], start: Model, size: Size) -> dict[str, Any]:
    """Adapt to some tunes, and judge by others."""
    learnt, held = tunes[: size.learnt], tunes[size.learnt : size.learnt + size.held]
    names = start.checkpoint.vocabulary
    dataset = adjust_split(Dataset(learnt, [], [], start.codec.name, names, {}))
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found = make_plan(dataset, size.options, start.checkpoint)
        run = TrainingRun(dataset, found, "adapted", Path(folder) / "run", start=start.checkpoint)
        for _ in run.train():
            pass
        seconds = time.monotonic() - began
        adapted = load(Path(folder) / "run")
    known = merge_ngrams(extract_encoded_ngrams(tune, start.codec) for tune in learnt)
    human = count_copied([extract_encoded_ngrams(tune, start.codec) for tune in held], known)
    models = {"folk": start, "adapted": adapted}
    return {
        "tokens": run.trainer.best.tokens,
        "seconds": round(seconds, 1),
        **{name: round(bits(model.checkpoint, held), 4) for name, model in models.items()},
        "human": round(human.rate, 5),
        **{
            f"copied_{name}": round(count_copied(written(model, size.written), known).rate, 5)
            for name, model in models.items()
        },
    }


def bits(checkpoint: Checkpoint, tunes: Sequence[EncodedTune]) -> float:
    """Return bits a note."""
    model = LanguageModel(replace(checkpoint.settings, dropout=0.0, embedding_dropout=0.0))
    model.put(extend_embeddings(checkpoint, checkpoint.settings.vocabulary_size))
    return evaluate(model, [t.ids for t in tunes], [t.notes for t in tunes]).bits_per_note


def written(model: Model, count: int) -> Iterable[Any]:
    """Let a model write, as `musicgen sample` does."""
    return (extract_ngrams(model.sample(seed=1, number=number).score) for number in range(count))


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the mean of all regions, with its interval."""
    falls = np.array([1 - row["adapted"] / row["folk"] for row in rows])
    draws = np.random.default_rng(0).integers(0, len(falls), (10_000, len(falls)))
    low, high = np.quantile(falls[draws].mean(1), [0.025, 0.975])
    print(
        f"{len(rows)} regions: on average {falls.mean():.1%} below folk unadapted"
        f" (95 % interval over regions {low:.1%} to {high:.1%}), ratio {1 - falls.mean():.3f};"
        " 15 % is asked for"
    )
    shares = {
        name: float(np.mean([row[name] for row in rows]))
        for name in ("human", "copied_folk", "copied_adapted")
    }
    print(
        f"8-note runs that stand in the tunes learnt from: {shares['copied_adapted']:.3%} of what"
        f" the adapted models write, {shares['human']:.3%} of the held-out tunes,"
        f" {shares['copied_folk']:.3%} of what folk writes"
    )


def told(row: dict[str, Any]) -> str:
    """Say how one region went."""
    return (
        f"{row['region']:16} {row['folk']:.3f} -> {row['adapted']:.3f} bits a note"
        f" ({row['adapted'] / row['folk'] - 1:+.1%}) in {row['seconds']:.0f} s;"
        f" copied {row['copied_adapted']:.3%}, people {row['human']:.3%}"
    )


def done(results: Path | None) -> list[dict[str, Any]]:
    """Return what was measured before."""
    if results is None or not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--results", type=Path, default=Path("build/adapt.jsonl"))
    arguments = parser.parse_args()
    size, names = (TOY, r"(irl|kinder0)\.abc$") if arguments.toy else (Size(), "")
    results = None if arguments.toy else arguments.results
    start = load("folk")
    regions = by_region(read_texts("essen", names))
    if arguments.toy:
        regions = dict(list(regions.items())[:2])
    rows = done(results)
    for name, tunes in unrelated(regions, size).items():
        row = next((row for row in rows if row["region"] == name), None)
        if row is None:
            row = {"region": name, **measure(tunes, start, size)}
            rows.append(row)
            if results is not None:
                results.parent.mkdir(parents=True, exist_ok=True)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(told(row), flush=True)
    report(rows)


if __name__ == "__main__":
    main()
