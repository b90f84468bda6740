"""Measure fine-tuning: `--from folk` on 20 tunes of a region, for ten regions.

    python benchmarks/adapt.py            ten regions of Essen; about 25 minutes on two idle cores
    python benchmarks/adapt.py --toy      two files; seconds, for continuous integration

For each region of music21's copy of the Essen collection, near-duplicates are removed. A random
choice of 20 tunes trains the model for at most 2 minutes; 50 other tunes evaluate it: bits per note
of `folk` before and after, with the weights as they are stored. The script also prints the share of
8-note runs of the sampled tunes that occur in the 20 training tunes, and the same share for the 50
human tunes.

A tune's region is the place in its O: field, without continents and "Germany" as a whole; of
several places, the one that is most frequent in the collection. The ten regions with the most tunes
are measured. The remaining regions, and tunes without a region, were used to choose the settings.

Each finished region is a line of JSON in the file --results; regions that are in it are skipped.
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
from musicgen.training.plan import TrainingOptions, adjust_split, make_plan
from musicgen.training.run import TrainingRun
from musicgen.training.sampled_tunes import (
    count_copied,
    extract_encoded_ngrams,
    extract_ngrams,
    merge_ngrams,
)

GENERAL_REGION = re.compile(
    r"((Mittel|Ost|Nord|West|Sued|Suedost|Suedwest|Nordost)?europa|(Ost)?asien|Deutschland.*)?",
    re.IGNORECASE,
)
TRAINING_TUNES, HELD_OUT_TUNES, REGIONS, MINUTES, SAMPLED_TUNES = 20, 50, 10, 2.0, 50


@dataclass(frozen=True)
class Size:
    """How many tunes and regions are measured."""

    training_tunes: int = TRAINING_TUNES
    held_out_tunes: int = HELD_OUT_TUNES
    regions: int = REGIONS
    sampled_tunes: int = SAMPLED_TUNES
    options: TrainingOptions = field(default_factory=lambda: TrainingOptions(minutes=MINUTES))


TOY = Size(3, 4, 2, 1, TrainingOptions(epochs=1, device="cpu"))


def read_texts(source: str, names: str) -> list[str]:
    """Return the ABC text of each tune of a collection."""
    texts = []
    for file in find_files(source).files:
        if re.search(names, file.name):
            text = decode_bytes(file.path.read_bytes())
            starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
            stops = [*starts[1:], len(text)]
            texts += [text[a:b].strip() for a, b in zip(starts, stops, strict=True)]
    return texts


def find_regions(text: str) -> list[str]:
    """Return the regions in a tune's O: field."""
    line = re.search(r"^O:(.*)$", text, re.MULTILINE)
    words = re.split("[,;/]", line[1]) if line else []
    return [word.strip() for word in words if not GENERAL_REGION.fullmatch(word.strip())]


def group_by_region(texts: Sequence[str]) -> dict[str, list[str]]:
    """Group tunes by region, the region with the most tunes first."""
    tune_counts = Counter(name for text in texts for name in set(find_regions(text)))
    tunes_by_region: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        regions = sorted(find_regions(text), key=lambda name: (-tune_counts[name], name))
        tunes_by_region[regions[0] if regions else ""].append(text)
    del tunes_by_region[""]
    return dict(sorted(tunes_by_region.items(), key=lambda item: (-len(item[1]), item[0])))


def select_unrelated(regions: dict[str, list[str]], size: Size) -> dict[str, list[EncodedTune]]:
    """Return one tune per group of near-duplicates, in random order, for the largest regions."""
    with tempfile.TemporaryDirectory() as folder:
        for number, texts in enumerate(regions.values()):
            (Path(folder) / f"{number}.abc").write_text("\n\n".join([*texts, ""]), encoding="utf-8")
        dataset, _ = build([folder], jobs=1)
    groups: dict[int, dict[str, EncodedTune]] = defaultdict(dict)
    for _, tune in dataset:
        groups[int(Path(tune.source).stem)].setdefault(tune.group, tune)
    large_regions = sorted(
        (
            number
            for number in groups
            if len(groups[number]) >= size.training_tunes + size.held_out_tunes
        ),
        key=lambda number: -len(groups[number]),
    )
    names = list(regions)
    return {
        names[number]: shuffle_groups(groups[number], number)
        for number in large_regions[: size.regions]
    }


def shuffle_groups(groups: dict[str, EncodedTune], seed: int) -> list[EncodedTune]:
    tunes = [groups[name] for name in sorted(groups)]
    return [tunes[index] for index in np.random.default_rng(seed).permutation(len(tunes))]


def fine_tune_and_measure(tunes: Sequence[EncodedTune], base: Model, size: Size) -> dict[str, Any]:
    """Fine-tune on some tunes, and evaluate on others."""
    training_tunes, held_out_tunes = (
        tunes[: size.training_tunes],
        tunes[size.training_tunes : size.training_tunes + size.held_out_tunes],
    )
    names = base.checkpoint.vocabulary
    dataset = adjust_split(Dataset(training_tunes, [], [], base.codec.name, names, {}))
    with tempfile.TemporaryDirectory() as folder:
        start_time = time.monotonic()
        plan = make_plan(dataset, size.options, base.checkpoint)
        run = TrainingRun(dataset, plan, "adapted", Path(folder) / "run", base=base.checkpoint)
        for _ in run.train():
            pass
        seconds = time.monotonic() - start_time
        adapted = load(Path(folder) / "run")
    training_ngrams = merge_ngrams(
        extract_encoded_ngrams(tune, base.codec) for tune in training_tunes
    )
    human_copies = count_copied(
        [extract_encoded_ngrams(tune, base.codec) for tune in held_out_tunes], training_ngrams
    )
    models = {"folk": base, "adapted": adapted}
    return {
        "tokens": run.trainer.best.tokens,
        "seconds": round(seconds, 1),
        **{
            name: round(compute_bits_per_note(model.checkpoint, held_out_tunes), 4)
            for name, model in models.items()
        },
        "human": round(human_copies.share, 5),
        **{
            f"copied_{name}": round(
                count_copied(sample_ngrams(model, size.sampled_tunes), training_ngrams).share, 5
            )
            for name, model in models.items()
        },
    }


def compute_bits_per_note(checkpoint: Checkpoint, tunes: Sequence[EncodedTune]) -> float:
    """Return the bits per note of held-out tunes."""
    model = LanguageModel(replace(checkpoint.settings, dropout=0.0, embedding_dropout=0.0))
    model.load_weights(extend_embeddings(checkpoint, checkpoint.settings.vocabulary_size))
    return evaluate(model, [t.ids for t in tunes], [t.notes for t in tunes]).bits_per_note


def sample_ngrams(model: Model, count: int) -> Iterable[Any]:
    """Sample tunes as `musicgen sample` does; yield their 8-note runs."""
    return (extract_ngrams(model.sample(seed=1, number=number).score) for number in range(count))


def print_summary(rows: Sequence[dict[str, Any]]) -> None:
    """Print the mean over all regions, with its interval."""
    reductions = np.array([1 - row["adapted"] / row["folk"] for row in rows])
    resamples = np.random.default_rng(0).integers(0, len(reductions), (10_000, len(reductions)))
    low, high = np.quantile(reductions[resamples].mean(1), [0.025, 0.975])
    print(
        f"{len(rows)} regions: on average {reductions.mean():.1%} fewer bits per note than folk"
        f" (95 % interval over regions {low:.1%} to {high:.1%}), ratio {1 - reductions.mean():.3f};"
        " target: 15 %"
    )
    shares = {
        name: float(np.mean([row[name] for row in rows]))
        for name in ("human", "copied_folk", "copied_adapted")
    }
    print(
        f"8-note runs that occur in training tunes: {shares['copied_adapted']:.3%} in samples of"
        f" the fine-tuned models, {shares['human']:.3%} in the held-out tunes,"
        f" {shares['copied_folk']:.3%} in samples of folk"
    )


def format_row(row: dict[str, Any]) -> str:
    """Format the result of one region."""
    return (
        f"{row['region']:16} {row['folk']:.3f} -> {row['adapted']:.3f} bits per note"
        f" ({row['adapted'] / row['folk'] - 1:+.1%}) in {row['seconds']:.0f} s;"
        f" copied {row['copied_adapted']:.3%}, human tunes {row['human']:.3%}"
    )


def read_results(results: Path | None) -> list[dict[str, Any]]:
    """Return the results of earlier runs."""
    if results is None or not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="tiny sizes: seconds instead of minutes")
    parser.add_argument("--results", type=Path, default=Path("build/adapt.jsonl"))
    arguments = parser.parse_args()
    size, names = (TOY, r"(irl|kinder0)\.abc$") if arguments.toy else (Size(), "")
    results = None if arguments.toy else arguments.results
    base = load("folk")
    regions = group_by_region(read_texts("essen", names))
    if arguments.toy:
        regions = dict(list(regions.items())[:2])
    rows = read_results(results)
    for name, tunes in select_unrelated(regions, size).items():
        row = next((row for row in rows if row["region"] == name), None)
        if row is None:
            row = {"region": name, **fine_tune_and_measure(tunes, base, size)}
            rows.append(row)
            if results is not None:
                results.parent.mkdir(parents=True, exist_ok=True)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(format_row(row), flush=True)
    print_summary(rows)


if __name__ == "__main__":
    main()
