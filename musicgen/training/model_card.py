"""The model card: architecture, training data, scores and samples of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from musicgen.checkpoint import Manifest, Weights, round_to_float16
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.formats import abc
from musicgen.music.symbols_part import without_symbols_part
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions, complete_options
from musicgen.sampling.sampler import GenericSampler, Sampler
from musicgen.tokens.codec import PLAIN_SETTING
from musicgen.tokens.registry import find_codec, restore_codec

SEEDS_SHOWN = 5
BARS_SHOWN = 8
IDS_SHOWN = 80


@dataclass(frozen=True)
class ScoreSummary:
    """The scores of a model on whole held-out tunes, as stored in the manifest."""

    table: dict[str, Any] = field(default_factory=dict)

    def with_valid(
        self, score: HeldOutScore, ngram_score: HeldOutScore | None = None
    ) -> ScoreSummary:
        """Add the scores of the model, and of the 5-gram if given, on the validation split."""
        scores = {"valid": score, "valid_5gram": ngram_score}
        rows = {name: _score_to_dict(value) for name, value in scores.items() if value}
        return replace(self, table=self.table | rows)

    def with_test(self, score: HeldOutScore, ngram_score: HeldOutScore) -> ScoreSummary:
        """Add the scores of the model and of the 5-gram on the test split."""
        percent_below = 100 * (1 - score.bits_per_note / ngram_score.bits_per_note)
        return replace(
            self,
            table=self.table
            | {
                "test": _score_to_dict(score),
                "test_5gram": _score_to_dict(ngram_score),
                "percent_below_5gram": round(percent_below, 2),
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values for a manifest."""
        return dict(self.table)


def _score_to_dict(score: HeldOutScore) -> dict[str, Any]:
    low, high = score.bootstrap_interval(np.random.default_rng(0))
    bits_per_note = score.nats / math.log(2) / np.maximum(1, score.notes)
    return {
        "bits_per_note": round(score.bits_per_note, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "middle_90": [round(float(bits), 4) for bits in np.quantile(bits_per_note, (0.05, 0.95))],
        "nats_per_token": round(score.loss, 5),
        "tunes": len(score.nats),
        "notes": int(score.notes.sum()),
    }


def render_model_card(
    manifest: Manifest, scores: ScoreSummary, weights: Weights, *, with_samples: bool = True
) -> str:
    """Render the card as Markdown.

    Args:
        manifest: describes the checkpoint.
        scores: shown in a table.
        weights: by name, float32; shapes (...) as in `checkpoint.weight_shapes`.
        with_samples: include the start of some sampled tunes, which takes some seconds.
    """
    return (
        "\n".join(
            [
                *_render_shape(manifest, weights),
                *_render_corpus(manifest),
                *_render_scores(scores, find_codec(manifest.codec).unit),
                *(_render_samples(manifest, weights) if with_samples else ()),
            ]
        )
        + "\n"
    )


def _render_shape(manifest: Manifest, weights: Weights) -> Iterator[str]:
    shape = manifest.settings
    count = sum(array.size for array in weights.values())
    yield f"# {manifest.name} {manifest.version}"
    yield ""
    yield (
        f"A recurrent language model of tunes: {shape.layers} {shape.cell.upper()} layers of"
        f" {shape.hidden} units, {count:,} parameters in float16, {shape.vocabulary_size} events"
        f" of the codec `{manifest.codec}`."
    )
    if shape.context:
        yield ""
        yield f"It also reads the score context: {', '.join(shape.context_fields)}."


def _render_corpus(manifest: Manifest) -> Iterator[str]:
    corpus = manifest.corpus
    yield ""
    yield "## Training data"
    yield ""
    yield from _render_source_cards(corpus)
    if not corpus.get("cards"):
        yield f"- {', '.join(corpus.get('sources', ())) or 'an unnamed corpus'}"
    base = corpus.get("adapted_from")
    if base:
        yield ""
        yield f"Fine-tuned from {base['name']} {base['version']}, which was trained on:"
        yield ""
        yield from _render_source_cards(base)
    split_sizes = corpus.get("tunes", {})
    yield ""
    yield (
        f"{split_sizes.get('train', 0):,} training, {split_sizes.get('valid', 0):,} validation and"
        f" {split_sizes.get('test', 0):,} test tunes; near-duplicates share a split. Fingerprint"
        f" `{corpus.get('fingerprint', '')[:16]}`."
    )


def _render_source_cards(corpus: Mapping[str, Any]) -> Iterator[str]:
    for card in corpus.get("cards", ()):
        yield f"- **{card['title']}** (`{card['name']}`). {card['source']}. {card['terms']}"


def _render_scores(scores: ScoreSummary, unit: str) -> Iterator[str]:
    yield ""
    yield "## Scores"
    yield ""
    yield "Whole held-out tunes, header, bars and end included, no mask; intervals over tunes."
    yield ""
    yield f"| split | model | bits per {unit} | 95 % interval | nats per token | tunes |"
    yield "|---|---|---|---|---|---|"
    names = {
        "valid": ("valid", "this model"),
        "valid_5gram": ("valid", "interpolated Kneser-Ney 5-gram"),
        "test": ("test", "this model"),
        "test_5gram": ("test", "interpolated Kneser-Ney 5-gram"),
    }
    for key, (split, model) in names.items():
        if key in scores.table:
            row = scores.table[key]
            low, high = row["interval_95"]
            yield (
                f"| {split} | {model} | {row['bits_per_note']:.3f} | {low:.3f} to {high:.3f} |"
                f" {row['nats_per_token']:.4f} | {row['tunes']:,} |"
            )
    if "percent_below_5gram" in scores.table:
        yield ""
        yield f"On the test split {scores.table['percent_below_5gram']} % below the 5-gram."


def _render_samples(manifest: Manifest, weights: Weights) -> Iterator[str]:
    """Show how the tunes of a few seeds begin, sampled from the weights as stored."""
    seen_ids = frozenset(id_ for id_, count in enumerate(manifest.seen) if count)
    engine = NumpyEngine(manifest.settings, round_to_float16(weights))
    codec = restore_codec(manifest.codec, manifest.vocabulary, manifest.name)
    if codec.has_bars:
        sampler = Sampler(engine, seen_ids, manifest.corpus.get("tonics", {}))
        options = complete_options({}, manifest)
        yield from _render_fenced(f"The first {BARS_SHOWN} bars", "abc", (
            _cut_first_bars(abc.render(without_symbols_part(score), seed))
            for seed in range(1, SEEDS_SHOWN + 1)
            for score in [sampler.sample(options, Noise(seed))]
        ))  # fmt: skip
        return
    generic_sampler = GenericSampler(engine, codec, seen_ids)
    id_lists = [
        generic_sampler.draw_ids(SamplingOptions(), Noise(seed), IDS_SHOWN)
        for seed in range(1, SEEDS_SHOWN + 1)
    ]
    if codec.unit == "character":
        texts = [str(codec.decode(ids, PLAIN_SETTING).piece) for ids in id_lists]
        blocks = (text.replace("```", "` ` `") for text in texts)
    else:
        blocks = (" ".join(codec.vocabulary.names[id_] for id_ in ids) for ids in id_lists)
    yield from _render_fenced(f"The first {IDS_SHOWN} events", "text", blocks)


def _render_fenced(heading: str, language: str, texts: Iterable[str]) -> Iterator[str]:
    yield ""
    yield f"## {heading} of {SEEDS_SHOWN} seeds"
    for text in texts:
        yield ""
        yield f"```{language}"
        yield text
        yield "```"


def _cut_first_bars(text: str) -> str:
    """Return the header and the first two lines of music, of four bars each."""
    lines = [line for line in text.strip().split("\n") if not line.startswith("%%")]
    first_music_line = (
        next(number for number, line in enumerate(lines) if line.startswith("K:")) + 1
    )
    return "\n".join(lines[: first_music_line + BARS_SHOWN // 4])
