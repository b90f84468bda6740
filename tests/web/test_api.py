"""The API as a client uses it: every answer is what /openapi.json says."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from musicgen import formats, load
from musicgen.checkpoint import render_manifest
from musicgen.folder_contents import MANIFEST
from musicgen.formats import midi
from musicgen.sampling.option_table import COMMON_FORMS
from musicgen.tokens.vocabulary import MEASURES
from musicgen.web.app import DOWNLOAD_MEDIA_TYPES
from musicgen.web.model_list import ModelList
from musicgen.web.saved_tunes import SavedTunes
from musicgen.web.schemas import Control, Differences, JobState, ModelInfo, TuneResponse
from tests.fake_models import untrained
from tests.live_server import Served

DOCS = Path(__file__).parents[2] / "docs" / "api.md"
PRIMER = "X:1\nT:Mine\nM:6/8\nL:1/8\nR:jig\nK:D\nDFA dAF|GBd gdB|A"
ASKED: dict[str, Any] = {
    "do": "sample", "seed": 7, "bars": 8, "form": "through", "key": "Edor", "meter": "6/8",
}  # fmt: skip


def test_models_say_what_can_be_asked(playground: Served) -> None:
    folk, mine = TypeAdapter(list[ModelInfo]).validate_python(playground.get("/api/models"))
    assert (folk.name, folk.has_index) == ("folk", True)
    assert (mine.name, mine.has_index) == ("mine", False)
    assert (folk.default_form, mine.default_form) == ("AABB", "AABB")
    assert folk.keys[:2] == ["G major", "D major"]
    assert {"6/8", "4/4"} <= set(folk.meters)
    assert {"jig", "reel"} <= set(folk.rhythms)
    assert folk.controls["bars"] == Control(min=1, max=512, step=1)
    assert folk.controls["end"] == Control(choices=["any", "tonic"])
    assert folk.forms == list(COMMON_FORMS)


def test_models_of_other_codecs_have_the_options_of_their_codec(tmp_path: Path) -> None:
    for codec in ("performance", "frames", "frames-16"):
        untrained(tmp_path / codec, codec=codec)
    untrained(tmp_path / "text", codec="text")
    found = {one["name"]: ModelInfo(**one) for one in ModelList(tmp_path).to_json()}
    assert found.keys() == {"folk", "performance", "frames", "frames-16"}
    heat = ["temperature", "top_k", "top_p", "min_p"]
    assert found["performance"].options == [*heat, "program"]
    assert found["frames"].options == found["frames-16"].options == [*heat, "program", "tempo"]
    assert {"key", "form", "bars", "max_copy"} <= set(found["folk"].options)
    for name in ("performance", "frames", "frames-16"):
        one = found[name]
        assert (one.codec, one.max_bars) == (name, 0)
        assert one.keys == one.meters == one.rhythms == one.forms == []


def test_an_odd_model_costs_the_list_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its manifest was edited, and the hash in it with it."""
    odd: dict[str, dict[str, Any]] = {
        "version": {"version": "one"}, "seen": {"seen": ["x"] * len(MEASURES)},
        "short": {"seen": [1]}, "corpus": {"corpus": []}, "codec": {"codec": 7},
        "tonics": {"corpus": {"tonics": {"major": 3}}},
        "keys": {"corpus": {"tonics": {"lumpy": {"Q": 3}}}}, "missing": {"version": None},
    }  # fmt: skip
    for name, change in odd.items():
        path = untrained(tmp_path / name) / MANIFEST
        body = json.loads(path.read_bytes()) | change
        path.write_bytes(render_manifest({k: v for k, v in body.items() if v is not None}))
    untrained(tmp_path / "good")
    (tmp_path / "loop").symlink_to("loop")
    models = ModelList(tmp_path)
    for _ in range(2):
        assert [one["name"] for one in models.to_json()] == ["folk", "good"]
    told = [record.getMessage() for record in caplog.records]
    assert sorted(line.split()[1] for line in told) == sorted(odd)
    assert all(line.isprintable() and str(tmp_path) not in line for line in told)


@pytest.fixture(params=["performance", "frames"])
def without_bars(playground: Served, request: pytest.FixtureRequest) -> Iterator[str]:
    """Lay a model beside the others whose tunes have no bars, and return its codec."""
    folder = untrained(playground.playground.runs.folder / request.param, codec=request.param)
    yield request.param
    shutil.rmtree(folder)


def test_a_tune_without_bars_is_heard_and_seen(
    playground: Served, without_bars: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place, codec = playground.playground, without_bars
    monkeypatch.setattr(place, "saved_tunes", SavedTunes(tmp_path, place.saved_tunes.describe))
    asked = {"do": "sample", "model": codec, "seed": 7, "temperature": 1.0, "program": "flute"}
    tune = playground.tune_of(**asked)
    TuneResponse(**tune)
    assert (tune["codec"], tune["svg"], tune["bars"], tune["key"]) == (codec, None, 0, "")
    assert "keeps to no bars" in tune["unwritten"]
    assert len(tune["sounds"]) == len(tune["names"]) > 10
    assert tune["programs"] == [73]
    assert tune["files"] == ["mid", "wav", "svg", "png"]
    for suffix in ("mid", "svg", "abc", "musicxml", "html"):  # sound of so many notes takes long
        answer = playground.client.get(f"/api/tunes/{tune['id']}/file/{suffix}")
        if suffix in tune["files"]:
            assert answer.status_code == 200, answer.text
        else:
            playground.refused(answer, 400, f"{suffix}: the music keeps to no bars")
    near = playground.tune_of(do="tweak", of=tune["id"], seed=8)
    assert near["id"] != tune["id"]
    assert playground.get(f"/api/tunes/{tune['id']}/differences/{near['id']}")["notes_a"]
    (told,) = playground.client.put(f"/api/shelf/{tune['id']}").json()
    assert (told["bars"], told["key"]) == (0, "")
    assert told["seconds"] == pytest.approx(tune["seconds"], abs=0.1)
    place.tune_cache = type(place.tune_cache)(2**20)  # as after a restart
    assert playground.get(f"/api/tunes/{tune['id']}") == tune | {"kept": True}
    end = playground.end_of(playground.ask(**asked, bars=8))
    assert "means nothing to a model of codec" in end["error"]


def test_a_title_of_a_megabyte_is_cut(playground: Served) -> None:
    title = "so long " * 8000  # what a tune of ABC has room for
    primer = {"text": f"X:1\nT:{title[:16000]}\nM:6/8\nL:1/8\nK:D\nDFA dAF|GBd gdB|"}
    tune = playground.tune_of(do="sample", seed=1, bars=4, primer=primer)
    assert all(len(tune[name]) < 210 for name in ("title", "rhythm"))
    answer = playground.client.post("/api/jobs", json={"do": "sing" * 10**6})
    playground.refused(answer, 400, "the request, do: invalid enum value")
    assert len(answer.json()["error"]) < 700


def test_no_error_names_a_folder_of_this_machine(playground: Served) -> None:
    folder = untrained(playground.playground.runs.folder / "damaged")
    (folder / "weights.safetensors").write_bytes(b"damaged")
    end = playground.end_of(playground.ask(do="sample", model="damaged"))
    assert end["error"].startswith("damaged/weights.safetensors: its bytes changed")
    shutil.rmtree(folder)


def test_a_tune_is_followed_while_it_is_written(playground: Served) -> None:
    states = [JobState(**told) for told in playground.events(playground.ask(**ASKED))]
    assert [state.state for state in states if state.state == "done"] == ["done"]
    bars = [state.bars for state in states]
    assert bars == sorted(bars)
    assert (bars[-1], states[-1].of) == (8, 8)
    shown = TuneResponse(**playground.get(f"/api/tunes/{states[-1].tune}"))
    assert (shown.key, shown.meter, shown.bars, shown.seed) == ("E dorian", "6/8", 8, 7)
    assert shown.wishes == {"bars": 8, "form": "through", "key": "E dorian", "meter": "6/8"}
    assert not shown.kept


def test_a_tune_has_the_bytes_that_the_command_writes(playground: Served, tmp_path: Path) -> None:
    id_ = playground.tune_of(**ASKED)["id"]
    tune = load("folk").sample(seed=7, bars=8, form="through", key="Edor", meter="6/8")
    for suffix in ("mid", "abc"):
        tune.write(tmp_path / f"song.{suffix}")
        answer = playground.client.get(f"/api/tunes/{id_}/file/{suffix}")
        assert answer.content == (tmp_path / f"song.{suffix}").read_bytes()
        assert f'.{suffix}"' in answer.headers["content-disposition"]


def test_a_tune_of_which_nothing_is_said_is_that_of_the_command(playground: Served) -> None:
    shown = playground.tune_of(do="sample", seed=7)
    tune = load("folk").sample(seed=7)
    assert (shown["bars"], shown["wishes"]) == (32, {"form": "AABB"})
    assert shown["recipe"] == tune.recipe.to_json()
    free = playground.tune_of(do="sample", seed=7, form="free")
    assert free["wishes"] == {}
    primer = {"name": "idea.abc", "text": PRIMER}
    assert playground.tune_of(do="sample", seed=7, primer=primer)["wishes"] == {"min_bars": 8}


@pytest.mark.parametrize(
    ("suffix", "start"), [("mid", b"MThd"), ("abc", b"X:1"), ("musicxml", b"<?xml"),
                          ("wav", b"RIFF"), ("svg", b"<svg"), ("png", b"\x89PNG"),
                          ("html", b"<!doctype html>")],
)  # fmt: skip
def test_every_kind_of_file_can_be_downloaded(
    playground: Served, suffix: str, start: bytes
) -> None:
    tune = playground.tune_of(**ASKED | {"bars": 2})
    answer = playground.client.get(f"/api/tunes/{tune['id']}/file/{suffix}")
    assert answer.status_code == 200, answer.text[:300]
    assert answer.content.lower().startswith(start.lower())
    named = f'attachment; filename="tune-in-e-dorian-no-7-1.{suffix}"'
    assert answer.headers["content-disposition"] == named
    assert answer.headers["content-type"].startswith(DOWNLOAD_MEDIA_TYPES[suffix].partition(";")[0])


def test_a_tweak_without_changes_is_the_same_tune(playground: Served) -> None:
    first = playground.tune_of(**ASKED)
    assert playground.tune_of(do="tweak", of=first["id"])["id"] == first["id"]


def test_a_tweak_keeps_bars_and_frees_wishes(playground: Served) -> None:
    first = playground.tune_of(**ASKED)
    kept = playground.tune_of(do="tweak", of=first["id"], keep="1-4", seed=9)
    told = Differences(**playground.get(f"/api/tunes/{first['id']}/differences/{kept['id']}"))
    assert told.bars
    assert min(told.bars) >= 4
    assert {first["sounds"][0][5]}.isdisjoint(told.notes_a)
    freed = playground.tune_of(do="tweak", of=first["id"], key=None, temperature=0.9)
    assert freed["wishes"] == {"bars": 8, "form": "through", "meter": "6/8", "temperature": 0.9}
    assert freed["key"] == "E dorian"


def test_a_tune_that_is_moved_differs_nowhere(playground: Served) -> None:
    first = playground.tune_of(**ASKED)
    moved = playground.tune_of(do="tweak", of=first["id"], key="Ador")
    told = playground.get(f"/api/tunes/{first['id']}/differences/{moved['id']}")
    assert told == {"notes_a": [], "notes_b": [], "bars": []}


@pytest.mark.parametrize("kind", ["text", "abc", "mid"])
def test_a_primer_is_text_or_a_file(playground: Served, kind: str, tmp_path: Path) -> None:
    primer: dict[str, str] = {"name": f"mine.{kind}", "text": PRIMER}
    if kind != "text":
        (tmp_path / "mine.abc").write_text(PRIMER)
        (score,), _ = formats.read(tmp_path / "mine.abc")
        formats.write(score, tmp_path / "mine.mid")
        data = (tmp_path / f"mine.{kind}").read_bytes()
        primer = {"name": f"mine.{kind}", "base64": base64.b64encode(data).decode()}
    tune = playground.tune_of(do="sample", seed=1, bars=8, primer=primer)
    (score,), _ = midi.parse(base64.b64decode(tune["midi"]), "tune.mid")
    assert [note.pitch for note in score.notes][:6] == [62, 66, 69, 74, 69, 66]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"do": "sample", "program": "²"}, "program"),
        ({"do": "sample", "pickup": "1e-9999999"}, "pickup"),
        ({"do": "sample", "pickup": "1/²"}, "pickup"),
        ({"do": "sample", "meter": "²/4"}, "meter"),
        ({"do": "sample", "meter": f"{'9' * 90}/4"}, "meter"),
        ({"do": "sample", "bars": 10**4000}, "bars"),
        ({"do": "sing"}, "do: invalid enum value 'sing'"),
        ({"do": "sample", "bars": 0}, "bars 0: ask for 1 to 512"),
        ({"do": "sample", "bars": "many"}, "bars: expected int | null, got str"),
        ({"do": "sample", "key": "H"}, "write a tonic and a mode"),
        ({"do": "sample", "key": "x" * 101}, "key: expected str of length <= 100"),
        ({"do": "sample", "temperature": 0}, "temperature 0"),
        ({"do": "sample", "seed": -1}, "seed: expected int >= 0"),
        ({"do": "sample", "sed": 1}, "the request: unknown field sed"),
        ({"do": "sample", "keep": "1-8"}, "these belong to a tweak"),
        ({"do": "sample", "primer": {"name": "x.abc"}}, "either its text or its bytes"),
        ({"do": "sample", "primer": {"base64": "???"}}, "base64 cannot be read"),
        ({"do": "sample", "primer": {"name": "x.exe", "base64": "AAAA"}}, "send one of .abc, .mid"),
        ({"do": "sample", "primer": {"base64": "é"}}, "base64 cannot be read"),
        ({"do": "sample", "bars": True}, "bars: expected int | null, got bool"),
        ({"do": "sample", "max_copy": 10**8}, "ask for 4 or more, up to 1,000"),
        (
            {"do": "sample"} | {f"x{n}": n for n in range(10_000)},
            "the request: unknown field x0",
        ),
        ({"do": "tweak"}, "of: name the tune"),
        ({"do": "tweak", "of": "../../etc/passwd"}, "of: expected str of another form"),
        ([], "the request"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    playground: Served, body: Any, words: str
) -> None:
    playground.refused(playground.client.post("/api/jobs", json=body), 400, words)


def test_infinity_is_no_number(playground: Served) -> None:
    headers = {"Content-Type": "application/json"}
    body = '{"do": "sample", "temperature": Infinity}'
    answer = playground.client.post("/api/jobs", content=body, headers=headers)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_what_the_model_cannot_meet_fails_in_one_line(playground: Served) -> None:
    for wish, words in (
        ({"rhythm": "tango"}, "rhythm 'tango' is unknown"),
        ({"model": "../folk"}, "model '../folk' is unknown: there are mine, folk"),
        ({"primer": {"text": "no music"}}, "primer"),
    ):
        end = playground.end_of(playground.ask(do="sample", **wish))
        assert end["state"] == "failed"
        assert words in end["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/jobs/nobody", "there is no such job"),
        ("/api/jobs/nobody/events", "there is no such job"),
        ("/api/tunes/0123456789abcdef", "not at hand any more"),
        ("/api/tunes/0123456789abcdef/file/mid", "not at hand any more"),
        ("/api/tunes/0123456789abcdef/file/exe", "no file of that kind"),
        ("/api/training/nobody/tune", "the run has no model"),
        ("/api/nothing", "Not Found"),
        ("/static/nothing.js", "nothing of that name"),
    ],
)
def test_what_is_not_there_is_said(playground: Served, path: str, words: str) -> None:
    playground.refused(playground.client.get(path), 404, words)


def test_the_description_names_every_path_with_its_types(playground: Served) -> None:
    told = playground.get("/openapi.json")
    assert set(told["paths"]) == {
        "/api/models", "/api/jobs", "/api/jobs/{id}", "/api/jobs/{id}/events", "/api/tunes/{id}",
        "/api/tunes/{id}/file/{suffix}", "/api/tunes/{a}/differences/{b}", "/api/shelf",
        "/api/shelf/{id}", "/api/training", "/api/training/{run}/tune",
    }  # fmt: skip
    refs = set(re.findall(r"#/components/schemas/(\w+)", str(told)))
    assert refs <= told["components"]["schemas"].keys()
    assert {"Ask", "JobState", "TuneShown", "Differences", "Kept", "Training", "Fault"} <= refs
    operations = [one for path in told["paths"].values() for one in path.values()]
    assert all(one["description"] and "429" in one["responses"] for one in operations)
    assert "422" not in str(operations)
    shown = told["components"]["schemas"]["TuneShown"]["properties"]
    for name in ("qpm", "midi"):  # of a tune without bars, and of one longer than MIDI is read
        assert {"type": "null"} in shown[name]["anyOf"]


def test_no_page_of_documentation_loads_from_elsewhere(playground: Served) -> None:
    assert playground.client.get("/docs").status_code == 404
    assert playground.client.get("/redoc").status_code == 404


# The examples of docs/api.md


def commands() -> list[list[str]]:
    """Return the words of each curl command in the document."""
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("curl ")]


def test_the_examples_of_the_document_work(playground: Served) -> None:
    tune = playground.tune_of(**ASKED)["id"]
    job = playground.ask(**ASKED)
    names = {"JOB": job, "TUNE": tune, "OTHER": tune, "RUN": "mine"}
    assert len(commands()) >= 8
    for words in commands():
        answer = carried_out(playground, words, names)
        assert answer.status_code in (200, 202), (words, answer.text)


def carried_out(playground: Served, words: list[str], names: dict[str, str]) -> httpx.Response:
    """Do what a curl command would."""
    method, body, headers, url = "GET", None, {}, ""
    rest = iter(words[1:])
    for word in rest:
        match word:
            case "-X":
                method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            case "-d":
                method, body = ("POST" if method == "GET" else method), next(rest)
            case "-o":
                next(rest)
            case "-s" | "-N":
                pass
            case _:
                url = word
    for name, value in names.items():
        url, body = url.replace(f"${name}", value), body and body.replace(f"${name}", value)
    path = url.removeprefix("http://127.0.0.1:8383")
    return playground.client.request(method, path, content=body, headers=headers)
