"""A worker finds the model of a tune by what it is, whatever its folder is called."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from musicgen.errors import Mismatch, NotFound
from musicgen.web.handlers import RequestHandlers
from musicgen.web.worker_protocol import ProgressWriter
from tests.fake_models import untrained


def test_a_tune_of_a_model_in_a_folder_of_another_name_is_kept(tmp_path: Path) -> None:
    """The recipe has the name of the manifest, and the list that of the folder."""
    untrained(tmp_path / "mine").rename(tmp_path / "renamed")
    craft = RequestHandlers(tmp_path, ProgressWriter(io.BytesIO()))
    made = craft.sample(b"", "renamed", {"bars": 2}, 1, None)
    recipe = made.head["recipe"]
    assert json.loads(recipe)["model"]["name"] == "mine"
    assert craft.render_file(b"", recipe, "mid").body.startswith(b"MThd")
    assert craft.tweak(b"", recipe, {}, None, None).head == made.head
    untrained(tmp_path / "mine", seed=2)  # of that name, and another
    assert (
        RequestHandlers(tmp_path, craft.progress)
        .render_file(b"", recipe, "mid")
        .body.startswith(b"MThd")
    )


def test_the_model_of_a_tune_is_one_of_the_list(tmp_path: Path) -> None:
    for folder in ("outside", "runs"):
        (tmp_path / folder).mkdir()
    untrained(tmp_path / "outside" / "mine")
    untrained(tmp_path / "runs" / "other")
    recipe = RequestHandlers(tmp_path / "outside", ProgressWriter(io.BytesIO())).sample(
        b"", "mine", {"bars": 2}, 1, None
    ).head["recipe"]  # fmt: skip
    craft = RequestHandlers(tmp_path / "runs", ProgressWriter(io.BytesIO()))
    with pytest.raises(NotFound, match="model 'mine' is unknown"):
        craft.render_file(b"", recipe, "mid")
    untrained(tmp_path / "runs" / "mine", seed=2)
    with pytest.raises(Mismatch, match="it was made by mine 1"):
        craft.render_file(b"", recipe, "mid")
