"""Figures of parts and of drums: golden values of small scores, and where they are left out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mido
import numpy as np
import pytest

from musicgen import formats
from musicgen.evaluation.card_page import list_pictures, render_card
from musicgen.evaluation.drum_figures import DRUM_FIGURES
from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.evaluation.part_figures import PART_FIGURES
from musicgen.evaluation.score_card import ScoreCard, TuneSet, make_score_card
from musicgen.evaluation.statistics import STATISTICS_FIGURES
from musicgen.music.general_midi import KIT_GROUP_BY_KEY, KIT_GROUPS
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Meter
from musicgen.music.tune_content import TuneContent
from tests.toy_tunes import make_dances

BAR, QUARTER, SIXTEENTH = 192, 48, 12
KICK, SNARE, HAT, TOM = 36, 38, 42, 45
PART_KEYS = {d.key.split(".")[0] for d in PART_FIGURES}
DRUM_KEYS = {d.key.split(".")[0] for d in DRUM_FIGURES}


def make_score(parts: list[Part], notes: list[Note], bars: int = 2) -> Score:
    marks = [Mark(0, "meter", Meter(4, 4)), *(Mark(BAR * n, "bar") for n in range(1, bars + 1))]
    return Score(notes, tuple(marks), tuple(parts))


def measure(score: Score) -> dict[str, float]:
    """Return the figures of one tune by key."""
    table = FigureTable.of([TuneContent.of(score)], (*PART_FIGURES, *DRUM_FIGURES))
    return dict(zip((d.key for d in table.definitions), table.values.tolist(), strict=True))


FLUTE = Part("flute", 73, role="melody")
BASS = Part("bass", 33, role="bass")
KIT = Part("kit", is_drums=True, role="drums")


def hits(part: int, *places: tuple[int, int]) -> list[Note]:
    """Make drum hits at places, (bar * 16 + 16th, key)."""
    return [Note(SIXTEENTH * at, key, SIXTEENTH, part=part) for at, key in places]


def test_trio_has_the_figures_counted_by_hand() -> None:
    melody = [Note(0, 72, BAR), Note(BAR, 77, QUARTER), Note(BAR + QUARTER, 55, QUARTER)]
    bass = [Note(QUARTER * n, 36, QUARTER, part=1) for n in range(8)]
    drums = hits(2, (0, KICK), (8, KICK), (4, SNARE), (12, HAT))
    figures = measure(make_score([FLUTE, BASS, KIT], [*melody, *bass, *drums]))
    assert figures["parts_per_tune"] == 3
    assert figures["notes_in_range"] == pytest.approx(10 / 11)  # G3 is below the flute
    assert figures["exact_bars"] == 1
    assert figures["bass_with_kick"] == 2 / 8
    assert figures["bass_with_drums"] == 4 / 8
    # octaves for a bar, a fourth for a quarter, a fifth for a quarter
    assert figures["consonance_with_bass"] == pytest.approx(5 / 6)
    assert figures["polyphony"] == pytest.approx((6 * 2 + 2 * 1) / 8)
    assert figures["silence_per_part"] == pytest.approx((2 / 8 + 0) / 2)
    assert figures["notes_per_bar.melody"] == 1.5
    assert figures["notes_per_bar.bass"] == 4
    assert math.isnan(figures["notes_per_bar.chords"])
    assert figures["hits_per_bar"] == 2


@pytest.mark.parametrize("interval", range(-12, 25))
def test_consonance_is_of_the_interval_above_the_bass(interval: int) -> None:
    notes = [Note(0, 60 + interval, BAR), Note(0, 60, BAR, part=1), Note(0, 64, BAR, part=1)]
    share = measure(make_score([FLUTE, BASS], notes, bars=1))["consonance_with_bass"]
    if interval < 0:
        assert math.isnan(share)  # no bass sounds below
    else:
        assert share == (interval % 12 in (0, 3, 4, 7, 8, 9))


def test_unisons_of_two_parts_are_one_pitch() -> None:
    notes = [Note(0, 60, BAR), Note(0, 60, BAR, part=1), Note(BAR, 64, BAR, part=1)]
    assert measure(make_score([FLUTE, BASS], notes))["polyphony"] == 1


def test_instruments_without_a_range_are_not_counted() -> None:
    synth = Part("synth", 81, role="chords")
    notes = [Note(0, 127, BAR), Note(0, 40, BAR, part=1), Note(0, 80, BAR, part=1)]
    assert measure(make_score([synth, BASS], notes))["notes_in_range"] == 0.5
    assert math.isnan(measure(make_score([synth, synth], notes))["notes_in_range"])


def test_unknown_roles_are_found() -> None:
    notes = [Note(QUARTER * n, 72 + n % 3, QUARTER) for n in range(8)]
    notes += [Note(QUARTER * n, 36, QUARTER, part=1) for n in range(8)]
    figures = measure(make_score([Part("", 73), Part("", 33)], notes))
    assert figures["notes_per_bar.bass"] == figures["notes_per_bar.melody"] == 4


def test_groove_counts_the_16ths_that_differ_group_by_group() -> None:
    first = [(0, KICK), (8, KICK), (4, SNARE), (12, SNARE)]
    second = [(16, KICK), (26, KICK), (20, SNARE), (28, SNARE)]
    figures = measure(make_score([KIT], hits(0, *first, *second)))
    assert figures["drum_groove_by_kit.kick"] == 1 - 2 / 16
    assert figures["drum_groove_by_kit.snare"] == 1
    assert math.isnan(figures["drum_groove_by_kit.toms"])
    assert figures["drum_groove"] == pytest.approx(1 - 1 / 16)
    assert figures["repeated_drum_bars"] == 0


def test_groove_is_that_of_the_formula_on_random_bars() -> None:
    rng, bars = np.random.default_rng(1), 5
    keys = [KICK, SNARE, HAT, TOM]
    grid = rng.random((bars, len(keys), 16)) < 0.3
    places = [(16 * bar + at, keys[key]) for bar, key, at in np.argwhere(grid).tolist()]
    expected = [
        1 - (grid[bar, key] ^ grid[bar + 1, key]).mean()
        for bar in range(bars - 1)
        for key in range(len(keys))
        if grid[bar : bar + 2, key].any()
    ]
    figures = measure(make_score([KIT], hits(0, *places), bars))
    assert figures["drum_groove"] == pytest.approx(np.mean(expected))


def test_repeated_bars_have_the_same_keys_at_the_same_steps() -> None:
    bar = [(0, KICK), (8, SNARE)]
    places = [(16 * n + at, key) for n in (0, 1, 2) for at, key in bar]
    same = hits(0, *places)
    late = [*same[:-1], replace(same[-1], onset=same[-1].onset + 1)]
    other_key = [*same[:-1], replace(same[-1], pitch=40)]
    shares = [measure(make_score([KIT], notes, 3))["repeated_drum_bars"]
              for notes in (same, late, other_key)]  # fmt: skip
    assert shares == [1, 0.5, 0.5]


def test_silent_bars_of_drums_are_not_compared() -> None:
    figures = measure(make_score([KIT], hits(0, (0, KICK), (16, KICK)), 8))
    assert figures["drum_groove"] == pytest.approx((1 + 15 / 16) / 2)
    assert figures["repeated_drum_bars"] == 0.5  # the third bar differs, later ones are silent


def test_shares_of_the_kit_add_up_to_1() -> None:
    places = [
        (0, KICK),
        (1, SNARE),
        (2, HAT),
        (3, 46),
        (4, TOM),
        (5, 47),
        (6, 51),
        (7, 49),
        (8, 56),
    ]
    figures = measure(make_score([KIT], hits(0, *places)))
    shares = {key: share for key, share in figures.items() if key.startswith("kit_share")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["kit_share.toms"] == pytest.approx(2 / 9)
    assert shares["kit_share.open_hat"] == shares["kit_share.other"] == pytest.approx(1 / 9)
    assert figures["tom_bars"] == 1
    assert [KIT_GROUPS[KIT_GROUP_BY_KEY[key]] for key in (35, 40, 44, 26, 50, 59, 57, 0)] == [
        "kick", "snare", "closed hat", "open hat", "toms", "ride", "crash", "other"]  # fmt: skip


def make_band(seed: int) -> Score:
    """Add a bass and drums to a dance, which become its first parts."""
    dance = make_dances(1, seed)[0].unfolded()
    bars = [mark.onset for mark in dance.of("bar")]
    low = [Note(at, 40, QUARTER, part=0) for at in (0, *bars[:-1])]
    kicks = [Note(at, KICK, SIXTEENTH, part=1) for at in (0, *bars[:-1])]
    tune = [replace(note, part=2) for note in dance.notes]
    return replace(dance, notes=[*tune, *low, *kicks], parts=(BASS, KIT, FLUTE))


def make_beat(seed: int) -> Score:
    rng = np.random.default_rng(seed)
    places = [(16 * bar + 4 * at, key) for bar in range(8) for at, key in enumerate((KICK, SNARE))]
    return make_score([KIT], hits(0, *places, *((int(at), HAT) for at in rng.integers(0, 128, 20))),
                      8)  # fmt: skip


def compare(sampled: list[Score], real: list[Score]) -> ScoreCard:
    sets = [TuneSet(name, tuple(scores), (False,) * len(scores))
            for name, scores in (("sampled", sampled), ("real", real))]  # fmt: skip
    return make_score_card(sets[:1], sets[1])


def test_tunes_of_one_part_have_no_figures_of_parts() -> None:
    data = compare(make_dances(5, 50), make_dances(6)).to_json()
    assert not (PART_KEYS | DRUM_KEYS) & data.keys()
    assert not any("drum" in note for note in data["notes"])


def test_bands_have_the_figures_of_parts_drums_and_melody() -> None:
    card = compare([make_band(n) for n in range(50, 55)], [make_band(n) for n in range(6)])
    data = card.to_json()
    shown = {d.key for d in (*PART_FIGURES, *DRUM_FIGURES)}
    shown -= {f"notes_per_bar.{role}" for role in ("chords", "pad")}
    shown -= {f"drum_groove_by_kit.{name.replace(' ', '_')}" for name in KIT_GROUPS[1:]}
    assert {f.key for f in card.columns[0].figures} >= shown
    assert data.keys() >= PART_KEYS | DRUM_KEYS
    assert data["bass_with_kick"]["value"] == 1
    assert data["pitch"]["value"] > 60  # the melody, not the bass, which is the first part
    assert "kick" in data["kit_share"]
    assert len(list_pictures(card)) == 6
    assert "Drum hits" in render_card(card)


def test_figures_that_fewer_than_4_real_tunes_have_are_left_out() -> None:
    real = [*make_dances(6), *(make_band(n) for n in range(3))]
    data = compare([make_band(n) for n in range(50, 55)], real).to_json()
    assert not (PART_KEYS | DRUM_KEYS) & data.keys()


def test_drums_alone_have_no_figures_of_melodies() -> None:
    card = compare([make_beat(n) for n in range(50, 85)], [make_beat(n) for n in range(32)])
    column = card.columns[0]
    melodic = {d.key for d in (*FORM_FIGURES, *STATISTICS_FIGURES)}
    assert not melodic & {figure.key for figure in column.figures}
    assert not any(f.key.startswith(("overlap", "nearest", "parts")) for f in column.figures)
    assert all(figure.verdict for figure in column.figures)
    assert all(np.isfinite(figure.value) for figure in column.figures if figure.key != "judge_auc")
    assert column.notes[0] == "the real tunes are drums alone: figures of melodies are left out"
    assert all(np.isfinite(distance) for distance in column.distances)
    assert [picture.title for picture in list_pictures(card)] == ["Drum hits"]
    assert render_card(card).count("<figure>") == 1


def test_drums_beside_melodies_are_not_known() -> None:
    card = compare([make_beat(n) for n in range(5)], make_dances(6))
    for key in ("bar_likeness.1", "loops", "pitch", "groove_consistency", "nearest_neighbor",
                "overlap.pitch"):  # fmt: skip
        assert card.columns[0].get_figure(key).verdict == "not known"


def test_drums_of_a_band_are_written_on_the_drum_channel(tmp_path: Path) -> None:
    formats.write(make_band(1), tmp_path / "band.mid")
    file = mido.MidiFile(tmp_path / "band.mid")
    channels = [{m.channel for m in track if m.type == "note_on"} for track in file.tracks[1:]]
    assert [channel == {9} for channel in channels] == [False, True, False]
