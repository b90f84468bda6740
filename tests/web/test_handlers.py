"""A worker finds the model of a tune by its fingerprint, even if its folder was renamed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from musicgen.errors import Mismatch, NotFound
from musicgen.web.handlers import RequestHandlers
from musicgen.web.worker_process import ProgressWriter
from tests.fake_models import untrained


def test_tune_of_a_renamed_model_folder_is_restored(tmp_path: Path) -> None:
    """The recipe has the name in the manifest, the list has the name of the folder."""
    untrained(tmp_path / "mine").rename(tmp_path / "renamed")
    handlers = RequestHandlers(tmp_path, ProgressWriter(io.BytesIO()))
    answer = handlers.sample(b"", "renamed", {"bars": 2}, 1, None)
    recipe = answer.head["recipe"]
    assert json.loads(recipe)["model"]["name"] == "mine"
    assert handlers.render_file(b"", recipe, "mid").body.startswith(b"MThd")
    assert handlers.tweak(b"", recipe, {}, None, None).head == answer.head
    untrained(tmp_path / "mine", seed=2)  # another model of that name
    assert (
        RequestHandlers(tmp_path, handlers.progress)
        .render_file(b"", recipe, "mid")
        .body.startswith(b"MThd")
    )


def test_recipe_cannot_load_a_model_outside_the_list(tmp_path: Path) -> None:
    for folder in ("outside", "runs"):
        (tmp_path / folder).mkdir()
    untrained(tmp_path / "outside" / "mine")
    untrained(tmp_path / "runs" / "other")
    recipe = RequestHandlers(tmp_path / "outside", ProgressWriter(io.BytesIO())).sample(
        b"", "mine", {"bars": 2}, 1, None
    ).head["recipe"]  # fmt: skip
    handlers = RequestHandlers(tmp_path / "runs", ProgressWriter(io.BytesIO()))
    with pytest.raises(NotFound, match="unknown model 'mine'"):
        handlers.render_file(b"", recipe, "mid")
    untrained(tmp_path / "runs" / "mine", seed=2)
    with pytest.raises(Mismatch, match="it was made by mine 1"):
        handlers.render_file(b"", recipe, "mid")
