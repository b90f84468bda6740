"""The API of tunes of several parts, as a client uses it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from musicgen import formats, load
from musicgen.music.score import Score
from musicgen.web.limits import ServerLimits
from musicgen.web.schemas import (
    Differences,
    FilePart,
    FileParts,
    ModelInfo,
    TuneResponse,
    TuneSurprise,
)
from tests.fake_models import may_be_seen_in_bands, untrained
from tests.live_server import LiveServer, run_server
from tests.multi_part import band

SAMPLE: Final[dict[str, Any]] = {
    "do": "sample", "model": "band", "seed": 15, "parts": "melody,bass,drums", "bars": 4,
    "form": "through", "pickup": "none",
}  # fmt: skip
SONG: Final = {"name": "song.mid", "base64": base64.b64encode(band(1)).decode()}
NAMES: Final = ["Lead", "Bass", "Pads", "Drums", "Organ"]


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Run a server with two workers and a model of bands."""
    folder = tmp_path_factory.mktemp("playground")
    (folder / "checkpoints").mkdir()
    untrained(folder / "checkpoints" / "band", seed=7, is_seen=may_be_seen_in_bands,
              corpus={"densities": {"bass": (2, 5)}})  # fmt: skip
    with run_server(folder / "tunes", folder / "checkpoints", ServerLimits()) as server:
        yield server


def list_notes(tune: dict[str, Any], part: int) -> list[tuple[float, ...]]:
    """Return bar, start, length and pitch of each sound of a part."""
    return [(s[6], s[0], s[1], s[2]) for s in tune["sounds"] if s[4] == part]


def test_model_lists_its_roles(playground: LiveServer) -> None:
    models = {model["name"]: ModelInfo(**model) for model in playground.get("/api/models")}
    assert sorted(models["band"].roles) == ["bass", "drums", "melody"]
    assert models["band"].density_roles == ["bass"]
    assert (models["folk"].roles, models["folk"].density_roles) == ([], [])


def test_tune_lists_its_parts(playground: LiveServer) -> None:
    tune = TuneResponse(**playground.generate(**SAMPLE))
    assert [part.role for part in tune.parts] == ["melody", "bass", "drums"]
    assert tune.parts[2].instrument == "drum kit"
    for number, part in enumerate(tune.parts):
        sounding = {int(sound[6]) for sound in tune.sounds if sound[4] == number}
        assert part.measures == sorted(sounding)


def test_parts_are_kept_whichever_worker_varies_the_tune(playground: LiveServer) -> None:
    first = playground.generate(**SAMPLE)
    jobs = [playground.submit(do="tweak", of=first["id"], keep="melody:2-3,drums", seed=seed)
            for seed in range(4)]  # fmt: skip
    for job in jobs:
        end = playground.wait_for_end(job)
        assert end["state"] == "done", end
        variant = playground.get(f"/api/tunes/{end['tune']}")
        assert list_notes(variant, 2) == list_notes(first, 2)
        kept = [note for note in list_notes(first, 0) if note[0] in (1, 2)]
        assert [note for note in list_notes(variant, 0) if note[0] in (1, 2)] == kept
        differences = Differences(
            **playground.get(f"/api/tunes/{first['id']}/differences/{variant['id']}")
        )
        melody, bass, drums = differences.parts
        assert not {1, 2} & set(melody)
        assert drums == []
        assert sorted({*melody, *bass}) == differences.bars


def test_variant_equals_that_of_the_library(playground: LiveServer) -> None:
    first = playground.generate(**SAMPLE)
    variant = playground.generate(do="tweak", of=first["id"], keep="2,3:1-2", seed=3)
    model = load(playground.playground.worker_pool.runs / "band")
    options = {name: value for name, value in SAMPLE.items() if name not in ("do", "model")}
    expected = model.sample(**options).tweak(keep="2,3:1-2", seed=3)
    assert variant["recipe"] == json.loads(json.dumps(expected.recipe.to_json()))


def test_surprise_of_several_parts_is_a_request_of_its_own(playground: LiveServer) -> None:
    tune = playground.generate(**SAMPLE)
    assert tune["surprise"] is None
    surprise = TuneSurprise(**playground.get(f"/api/tunes/{tune['id']}/surprise"))
    assert len(surprise.notes) == len({sound[5] for sound in tune["sounds"]})
    assert surprise.bits_per_note > 0
    single = playground.generate(do="sample", bars=2, seed=1)
    assert playground.get(f"/api/tunes/{single['id']}/surprise") == single["surprise"]


def test_parts_of_a_file(playground: LiveServer) -> None:
    response = playground.client.post("/api/parts", json=SONG)
    assert response.status_code == 200, response.text
    file = FileParts(**response.json())
    assert (file.bars, file.meter) == (4, "4/4")
    assert [part.name for part in file.parts] == NAMES
    assert file.parts[1] == FilePart(
        name="Bass", role="bass", instrument="electric bass (finger)", bars=4
    )
    assert file.parts[3].role == "drums"


@pytest.mark.parametrize(
    ("body", "words"),
    [({}, "the file: send either its text or its bytes as base64"),
     ({"name": "a.wav", "base64": "AAAA"}, "the file: unsupported format of 'a.wav'"),
     ({"name": "a.mid", "base64": "%"}, "the file: invalid base64"),
     ({"name": "a.mid", "base64": "TVRoZA=="}, ""),
     ({"name": "a.mid", "part": "1"}, "unknown field")],
)  # fmt: skip
def test_other_files_are_refused(playground: LiveServer, body: dict[str, str], words: str) -> None:
    playground.assert_refused(playground.client.post("/api/parts", json=body), 400, words)


def test_parts_are_drawn_around_given_ones(playground: LiveServer, tmp_path: Path) -> None:
    load(playground.playground.worker_pool.runs / "band").sample(
        seed=15, parts="melody,bass,drums", bars=4, form="through", pickup="none"
    ).write(tmp_path / "song.mid")
    song = (tmp_path / "song.mid").read_bytes()
    given = {"name": "song.mid", "base64": base64.b64encode(song).decode()}
    tune = playground.generate(
        do="sample", model="band", seed=1, given=given, given_parts="melody,drums", parts="bass"
    )
    assert [part["role"] for part in tune["parts"]] == ["melody", "drums", "bass"]
    (before,), _ = formats.read(tmp_path / "song.mid")
    (after,), _ = formats.midi.parse(base64.b64decode(tune["midi"]), "tune.mid")
    for part, given_part in ((0, 0), (1, 2)):
        assert list_columns(after, part) == list_columns(before, given_part)
    assert [kept["bars"] for kept in tune["recipe"]["given"]["kept"]] == [[], []]


def list_columns(score: Score, part: int) -> list[tuple[int, int, int]]:
    return sorted((n.onset, n.pitch, n.duration) for n in score.notes if n.part == part)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"given_parts": "melody"}, "given_parts: nothing is given"),
     ({"given": SONG, "primer": SONG}, "given, primer: a tune has one of them"),
     ({"given": SONG, "given_parts": "melody:9-1"}, "given_parts 'melody:9-1'"),
     ({"given": {"name": "a.mid"}}, "given: send either"),
     ({"given": {"name": "a.xyz", "base64": "AAAA"}}, "given: unsupported format")],
)  # fmt: skip
def test_contradictory_requests_are_refused(
    playground: LiveServer, fields: dict[str, Any], words: str
) -> None:
    body = {"do": "sample", "model": "band"} | fields
    playground.assert_refused(playground.client.post("/api/jobs", json=body), 400, words)


def test_given_parts_of_a_tweak_are_refused(playground: LiveServer) -> None:
    tune = playground.generate(**SAMPLE)
    body = {"do": "tweak", "of": tune["id"], "given": SONG}
    playground.assert_refused(
        playground.client.post("/api/jobs", json=body), 400, "given: only a sample has given parts"
    )
    end = playground.wait_for_end(
        playground.submit(do="sample", model="band", given=SONG, given_parts="flute")
    )
    assert end["state"] == "failed"
    assert "has no such part, but 1 Lead, 2 Bass" in end["error"]
