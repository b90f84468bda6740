"""The API as a client uses it: every response matches /openapi.json."""

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
from musicgen.web.models_and_runs import ModelList
from musicgen.web.saved_tunes import SavedTunes
from musicgen.web.schemas import Control, Differences, JobState, ModelInfo, TuneResponse
from tests.fake_models import untrained
from tests.live_server import LiveServer

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
DOCS = Path(__file__).parents[2] / "docs" / "api.md"
PRIMER = "X:1\nT:Mine\nM:6/8\nL:1/8\nR:jig\nK:D\nDFA dAF|GBd gdB|A"
FOLK_SAMPLING = dict(load("folk").checkpoint.manifest.sampling)
SAMPLE_REQUEST: dict[str, Any] = {
    "do": "sample", "seed": 7, "bars": 8, "form": "through", "key": "Edor", "meter": "6/8",
}  # fmt: skip


def included_models() -> set[str]:
    """Return the names of the models in the package, without `folk`, which comes first."""
    return {path.name for path in CHECKPOINTS.iterdir()} - {"folk"}


def test_models_list_their_options(playground: LiveServer) -> None:
    models = TypeAdapter(list[ModelInfo]).validate_python(playground.get("/api/models"))
    by_name = {model.name: model for model in models}
    folk, drums, mine = by_name["folk"], by_name["drums"], by_name["mine"]
    assert list(by_name) == ["folk", *sorted(included_models()), "mine"]
    assert (drums.name, drums.has_index, drums.default_form) == ("drums", False, "free")
    assert (folk.name, folk.has_index) == ("folk", True)
    assert (mine.name, mine.has_index) == ("mine", False)
    assert (folk.default_form, mine.default_form) == ("AABB", "AABB")
    assert folk.keys[:2] == ["G major", "D major"]
    assert {"6/8", "4/4"} <= set(folk.meters)
    assert {"jig", "reel"} <= set(folk.rhythms)
    assert folk.controls["bars"] == Control(min=1, max=512, step=1)
    assert folk.controls["end"] == Control(choices=["any", "tonic", "cadence", "close"])
    assert folk.forms == list(COMMON_FORMS)


def test_models_list_the_options_of_their_codec(tmp_path: Path) -> None:
    for codec in ("performance", "frames", "frames-16"):
        untrained(tmp_path / codec, codec=codec)
    untrained(tmp_path / "text", codec="text")
    models = {model["name"]: ModelInfo(**model) for model in ModelList(tmp_path).to_json()}
    assert models.keys() == {"folk", *included_models(), "performance", "frames", "frames-16"}
    temperature_options = ["temperature", "top_k", "top_p", "min_p"]
    assert models["performance"].options == [*temperature_options, "program"]
    assert (
        models["frames"].options
        == models["frames-16"].options
        == [*temperature_options, "program", "tempo"]
    )
    assert {"key", "form", "bars", "max_copy"} <= set(models["folk"].options)
    for name in ("performance", "frames", "frames-16"):
        model = models[name]
        assert (model.codec, model.max_bars) == (name, 0)
        assert model.keys == model.meters == model.rhythms == model.forms == []


def test_invalid_manifest_hides_only_its_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The manifest was edited, together with its hash."""
    changes: dict[str, dict[str, Any]] = {
        "version": {"version": "one"}, "seen": {"seen": ["x"] * len(MEASURES)},
        "short": {"seen": [1]}, "corpus": {"corpus": []}, "codec": {"codec": 7},
        "tonics": {"corpus": {"tonics": {"major": 3}}},
        "keys": {"corpus": {"tonics": {"lumpy": {"Q": 3}}}}, "missing": {"version": None},
    }  # fmt: skip
    for name, change in changes.items():
        path = untrained(tmp_path / name) / MANIFEST
        body = json.loads(path.read_bytes()) | change
        path.write_bytes(render_manifest({k: v for k, v in body.items() if v is not None}))
    untrained(tmp_path / "good")
    (tmp_path / "loop").symlink_to("loop")
    models = ModelList(tmp_path)
    for _ in range(2):
        names = [model["name"] for model in models.to_json()]
        assert names == ["folk", *sorted({*included_models(), "good"})]
    warnings = [record.getMessage() for record in caplog.records]
    assert sorted(line.split()[1] for line in warnings) == sorted(changes)
    assert all(line.isprintable() and str(tmp_path) not in line for line in warnings)


@pytest.fixture(params=["performance", "frames"])
def codec_without_bars(playground: LiveServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """Add a model whose tunes have no bars, and return its codec."""
    folder = untrained(playground.playground.runs.folder / request.param, codec=request.param)
    yield request.param
    shutil.rmtree(folder)


def test_tune_without_bars_is_served(
    playground: LiveServer, codec_without_bars: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state, codec = playground.playground, codec_without_bars
    monkeypatch.setattr(state, "saved_tunes", SavedTunes(tmp_path, state.saved_tunes.describe))
    request = {"do": "sample", "model": codec, "seed": 7, "temperature": 1.0, "program": "flute"}
    tune = playground.generate(**request)
    TuneResponse(**tune)
    assert (tune["codec"], tune["svg"], tune["bars"], tune["key"]) == (codec, None, 0, "")
    assert "has no bars" in tune["unwritten"]
    assert len(tune["sounds"]) == len(tune["names"]) > 10
    assert tune["programs"] == [73]
    assert tune["files"] == ["mid", "wav", "svg", "png"]
    for suffix in ("mid", "svg", "abc", "musicxml", "html"):  # .wav would take long
        response = playground.client.get(f"/api/tunes/{tune['id']}/file/{suffix}")
        if suffix in tune["files"]:
            assert response.status_code == 200, response.text
        else:
            playground.assert_refused(response, 400, f"{suffix}: the music has no bars")
    variant = playground.generate(do="tweak", of=tune["id"], seed=8)
    assert variant["id"] != tune["id"]
    assert playground.get(f"/api/tunes/{tune['id']}/differences/{variant['id']}")["notes_a"]
    (saved,) = playground.client.put(f"/api/shelf/{tune['id']}").json()
    assert (saved["bars"], saved["key"]) == (0, "")
    assert saved["seconds"] == pytest.approx(tune["seconds"], abs=0.1)
    state.tune_cache = type(state.tune_cache)(2**20)  # as after a restart
    assert playground.get(f"/api/tunes/{tune['id']}") == tune | {"kept": True}
    end = playground.wait_for_end(playground.submit(**request, bars=8))
    assert "means nothing to a model of codec" in end["error"]


def test_long_texts_are_truncated(playground: LiveServer) -> None:
    title = "so long " * 8000
    primer = {"text": f"X:1\nT:{title[:16000]}\nM:6/8\nL:1/8\nK:D\nDFA dAF|GBd gdB|"}
    tune = playground.generate(do="sample", seed=1, bars=4, primer=primer)
    assert all(len(tune[name]) < 210 for name in ("title", "rhythm"))
    response = playground.client.post("/api/jobs", json={"do": "sing" * 10**6})
    playground.assert_refused(response, 400, "the request, do: invalid enum value")
    assert len(response.json()["error"]) < 700


def test_errors_hide_folders(playground: LiveServer) -> None:
    folder = untrained(playground.playground.runs.folder / "damaged")
    (folder / "weights.safetensors").write_bytes(b"damaged")
    end = playground.wait_for_end(playground.submit(do="sample", model="damaged"))
    assert end["error"].startswith("damaged/weights.safetensors: its bytes changed")
    shutil.rmtree(folder)


def test_events_report_progress(playground: LiveServer) -> None:
    states = [
        JobState(**state_data)
        for state_data in playground.follow(playground.submit(**SAMPLE_REQUEST))
    ]
    assert [state.state for state in states if state.state == "done"] == ["done"]
    bars = [state.bars for state in states]
    assert bars == sorted(bars)
    assert (bars[-1], states[-1].of) == (8, 8)
    tune = TuneResponse(**playground.get(f"/api/tunes/{states[-1].tune}"))
    assert (tune.key, tune.meter, tune.bars, tune.seed) == ("E dorian", "6/8", 8, 7)
    wishes = {"bars": 8, "form": "through", "key": "E dorian", "meter": "6/8"}
    assert tune.wishes == wishes | FOLK_SAMPLING
    assert not tune.kept


def test_download_equals_command_output(playground: LiveServer, tmp_path: Path) -> None:
    id_ = playground.generate(**SAMPLE_REQUEST)["id"]
    tune = load("folk").sample(seed=7, bars=8, form="through", key="Edor", meter="6/8")
    for suffix in ("mid", "abc"):
        tune.write(tmp_path / f"song.{suffix}")
        response = playground.client.get(f"/api/tunes/{id_}/file/{suffix}")
        assert response.content == (tmp_path / f"song.{suffix}").read_bytes()
        assert f'.{suffix}"' in response.headers["content-disposition"]


def test_defaults_equal_those_of_the_command(playground: LiveServer) -> None:
    response = playground.generate(do="sample", seed=7)
    tune = load("folk").sample(seed=7)
    assert (response["bars"], response["wishes"]) == (32, {"form": "AABB"} | FOLK_SAMPLING)
    assert response["recipe"] == tune.recipe.to_json()
    free_form = playground.generate(do="sample", seed=7, form="free")
    assert free_form["wishes"] == FOLK_SAMPLING
    primer = {"name": "idea.abc", "text": PRIMER}
    with_primer = playground.generate(do="sample", seed=7, primer=primer)
    assert with_primer["wishes"] == {"min_bars": 8} | FOLK_SAMPLING


@pytest.mark.parametrize(
    ("suffix", "start"), [("mid", b"MThd"), ("abc", b"X:1"), ("musicxml", b"<?xml"),
                          ("wav", b"RIFF"), ("svg", b"<svg"), ("png", b"\x89PNG"),
                          ("html", b"<!doctype html>")],
)  # fmt: skip
def test_each_format_is_downloadable(playground: LiveServer, suffix: str, start: bytes) -> None:
    tune = playground.generate(**SAMPLE_REQUEST | {"bars": 2})
    response = playground.client.get(f"/api/tunes/{tune['id']}/file/{suffix}")
    assert response.status_code == 200, response.text[:300]
    assert response.content.lower().startswith(start.lower())
    disposition = f'attachment; filename="tune-in-e-dorian-no-7-1.{suffix}"'
    assert response.headers["content-disposition"] == disposition
    assert response.headers["content-type"].startswith(
        DOWNLOAD_MEDIA_TYPES[suffix].partition(";")[0]
    )


def test_tweak_without_changes_returns_the_same_tune(playground: LiveServer) -> None:
    first = playground.generate(**SAMPLE_REQUEST)
    assert playground.generate(do="tweak", of=first["id"])["id"] == first["id"]


def test_tweak_keeps_bars_and_resets_null_options(playground: LiveServer) -> None:
    first = playground.generate(**SAMPLE_REQUEST)
    variant = playground.generate(do="tweak", of=first["id"], keep="1-4", seed=9)
    differences = Differences(
        **playground.get(f"/api/tunes/{first['id']}/differences/{variant['id']}")
    )
    assert differences.bars
    assert min(differences.bars) >= 4
    assert {first["sounds"][0][5]}.isdisjoint(differences.notes_a)
    reset = playground.generate(do="tweak", of=first["id"], key=None, temperature=0.9)
    wishes = {"bars": 8, "form": "through", "meter": "6/8", "temperature": 0.9}
    assert reset["wishes"] == FOLK_SAMPLING | wishes
    assert reset["key"] == "E dorian"


def test_transposed_tune_has_no_differences(playground: LiveServer) -> None:
    first = playground.generate(**SAMPLE_REQUEST)
    transposed = playground.generate(do="tweak", of=first["id"], key="Ador")
    differences = playground.get(f"/api/tunes/{first['id']}/differences/{transposed['id']}")
    assert differences == {"notes_a": [], "notes_b": [], "bars": [], "parts": [[]]}


@pytest.mark.parametrize("kind", ["text", "abc", "mid"])
def test_primer_is_text_or_a_file(playground: LiveServer, kind: str, tmp_path: Path) -> None:
    primer: dict[str, str] = {"name": f"mine.{kind}", "text": PRIMER}
    if kind != "text":
        (tmp_path / "mine.abc").write_text(PRIMER)
        (score,), _ = formats.read(tmp_path / "mine.abc")
        formats.write(score, tmp_path / "mine.mid")
        data = (tmp_path / f"mine.{kind}").read_bytes()
        primer = {"name": f"mine.{kind}", "base64": base64.b64encode(data).decode()}
    tune = playground.generate(do="sample", seed=1, bars=8, primer=primer)
    (score,), _ = midi.parse(base64.b64decode(tune["midi"]), "tune.mid")
    assert [note.pitch for note in score.notes][:6] == [62, 66, 69, 74, 69, 66]


def test_performance_goes_on_from_seconds_of_a_primer(playground: LiveServer) -> None:
    folder = untrained(playground.playground.runs.folder / "live", codec="performance")
    primer = {"text": "X:1\nL:1/4\nQ:1/4=60\nK:C\nCDEF|GABc|", "seconds": "1-3.5"}
    tune = playground.generate(do="sample", model="live", seed=1, primer=primer)
    starts = sorted((start, pitch) for start, _, pitch, *_ in tune["sounds"])
    assert starts[:3] == [(0, 62), (1, 64), (2, 65)]
    assert len(starts) > 3
    body = {"do": "sample", "model": "live", "primer": {**primer, "seconds": "x"}}
    response = playground.client.post("/api/jobs", json=body)
    playground.assert_refused(response, 400, "write seconds such as 0-15")
    shutil.rmtree(folder)


def test_part_and_bars_of_a_primer_can_be_chosen(playground: LiveServer) -> None:
    text = "X:1\nM:6/8\nL:1/8\nK:D\nV:1\nDFA dAF|GBd gdB|\nV:2\nD,3 A,3|F,3 E,3|\n"
    primer = {"name": "two.abc", "text": text, "part": "2", "bars": "2"}
    tune = playground.generate(do="sample", seed=1, bars=8, primer=primer)
    (score,), _ = midi.parse(base64.b64decode(tune["midi"]), "tune.mid")
    first, second = [note.pitch % 12 for note in score.notes][:2]
    assert (first, second) == (6, 4)  # F sharp, E
    assert any("bar 2 of it is taken" in message for message in tune["told"])


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
        ({"do": "sample", "keep": "1-8"}, "only a tweak has these"),
        ({"do": "sample", "primer": {"name": "x.abc"}}, "either its text or its bytes"),
        ({"do": "sample", "primer": {"base64": "???"}}, "invalid base64"),
        ({"do": "sample", "primer": {"name": "x.exe", "base64": "AAAA"}}, "send .abc or .mid"),
        ({"do": "sample", "primer": {"base64": "é"}}, "invalid base64"),
        ({"do": "sample", "primer": {"text": "K:C\nC", "bars": "x"}}, "write bars such as 1-8"),
        ({"do": "sample", "bars": True}, "bars: expected int | null, got bool"),
        ({"do": "sample", "max_copy": 10**8}, "ask for 4 or more, up to 1,000"),
        (
            {"do": "sample"} | {f"x{n}": n for n in range(10_000)},
            "the request: unknown field x0",
        ),
        ({"do": "tweak"}, "of: missing; name the tune"),
        ({"do": "tweak", "of": "../../etc/passwd"}, "of: expected str of another form"),
        ([], "the request"),
    ],
)
def test_invalid_request_is_refused(playground: LiveServer, body: Any, words: str) -> None:
    playground.assert_refused(playground.client.post("/api/jobs", json=body), 400, words)


def test_infinity_is_refused(playground: LiveServer) -> None:
    headers = {"Content-Type": "application/json"}
    body = '{"do": "sample", "temperature": Infinity}'
    response = playground.client.post("/api/jobs", content=body, headers=headers)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


def test_request_the_model_cannot_meet_fails(playground: LiveServer) -> None:
    for options, words in (
        ({"rhythm": "tango"}, "rhythm 'tango' is unknown"),
        (
            {"model": "../folk"},
            "unknown model '../folk'; choose one of mine, band, chorale, drums, folk, lead",
        ),
        ({"primer": {"text": "no music"}}, "primer"),
    ):
        end = playground.wait_for_end(playground.submit(do="sample", **options))
        assert end["state"] == "failed"
        assert words in end["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/jobs/nobody", "no such job"),
        ("/api/jobs/nobody/events", "no such job"),
        ("/api/tunes/0123456789abcdef", "no longer available"),
        ("/api/tunes/0123456789abcdef/file/mid", "no longer available"),
        ("/api/tunes/0123456789abcdef/file/exe", "unknown file format"),
        ("/api/training/nobody/tune", "the run has no model"),
        ("/api/nothing", "Not Found"),
        ("/static/nothing.js", "no such file"),
    ],
)
def test_missing_resources_are_404(playground: LiveServer, path: str, words: str) -> None:
    playground.assert_refused(playground.client.get(path), 404, words)


def test_openapi_describes_every_path(playground: LiveServer) -> None:
    description = playground.get("/openapi.json")
    assert set(description["paths"]) == {
        "/api/models", "/api/jobs", "/api/jobs/{id}", "/api/jobs/{id}/events", "/api/tunes/{id}",
        "/api/tunes/{id}/file/{suffix}", "/api/tunes/{a}/differences/{b}", "/api/shelf",
        "/api/tunes/{id}/surprise", "/api/parts", "/api/shelf/{id}", "/api/training",
        "/api/training/{run}/tune",
    }  # fmt: skip
    refs = set(re.findall(r"#/components/schemas/(\w+)", str(description)))
    assert refs <= description["components"]["schemas"].keys()
    assert {
        "TuneRequest", "JobState", "TuneResponse", "Differences", "SavedTuneResponse",
        "TrainingRun", "ErrorResponse",
    } <= refs  # fmt: skip
    operations = [
        operation for path in description["paths"].values() for operation in path.values()
    ]
    assert all(
        operation["description"] and "429" in operation["responses"] for operation in operations
    )
    assert "422" not in str(operations)
    properties = description["components"]["schemas"]["TuneResponse"]["properties"]
    for name in ("qpm", "midi"):  # of a tune without bars, and of one longer than MIDI is read
        assert {"type": "null"} in properties[name]["anyOf"]


def test_no_documentation_page_loads_external_scripts(playground: LiveServer) -> None:
    assert playground.client.get("/docs").status_code == 404
    assert playground.client.get("/redoc").status_code == 404


# The examples of docs/api.md


def parse_curl_commands() -> list[list[str]]:
    """Return the words of each curl command in the documentation."""
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("curl ")]


def test_documented_examples_work(playground: LiveServer) -> None:
    tune = playground.generate(**SAMPLE_REQUEST)["id"]
    job = playground.submit(**SAMPLE_REQUEST)
    names = {"JOB": job, "TUNE": tune, "OTHER": tune, "RUN": "mine"}
    assert len(parse_curl_commands()) >= 8
    for words in parse_curl_commands():
        response = run_curl_command(playground, words, names)
        assert response.status_code in (200, 202), (words, response.text)


def run_curl_command(
    playground: LiveServer, words: list[str], names: dict[str, str]
) -> httpx.Response:
    """Send the request of a curl command."""
    method, body, headers, url = "GET", None, {}, ""
    words_left = iter(words[1:])
    for word in words_left:
        match word:
            case "-X":
                method = next(words_left)
            case "-H":
                name, _, value = next(words_left).partition(": ")
                headers[name] = value
            case "-d":
                method, body = ("POST" if method == "GET" else method), next(words_left)
            case "-o":
                next(words_left)
            case "-s" | "-N":
                pass
            case _:
                url = word
    for name, value in names.items():
        url, body = url.replace(f"${name}", value), body and body.replace(f"${name}", value)
    path = url.removeprefix("http://127.0.0.1:8383")
    return playground.client.request(method, path, content=body, headers=headers)
