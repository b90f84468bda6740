"""What goes over the wire, as /openapi.json describes it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from musicgen.web.limits import BODY_BYTES

WORDS: Final = 100  # characters of a value
Words = Annotated[str, Field(max_length=WORDS)]
TuneId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Wire(BaseModel):
    """A body that holds nothing but what it names."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _hold_no_crowd(cls, body: Any) -> Any:
        """Refuse a body of more names than there are; a fault for each would take seconds."""
        if isinstance(body, dict) and len(body) > len(cls.model_fields):
            raise ValueError(f"it has {len(body):,} names; {len(cls.model_fields)} are known")
        return body


class Fault(Wire):
    """Why not."""

    error: str = Field(description="one line: what is wrong, and the way out")


class ModelAbout(Wire):
    """A model that can be asked for tunes."""

    name: str
    version: int
    keys: list[str] = Field(description="the commonest first, as the key of a wish is written")
    meters: list[str]
    rhythms: list[str]
    max_bars: int
    forms: list[str] = Field(description="some that are common; any letters will do")
    default_form: str = Field("free", description="where no form, bars or primer are named")
    has_index: bool = Field(description="whether it tells what a tune shares with others")


class PrimerSent(Wire):
    """The notes that a tune starts from: the text of an ABC tune, or the bytes of a file."""

    name: Words = "primer.abc"
    text: Annotated[str, Field(max_length=BODY_BYTES)] | None = None
    base64: Annotated[str, Field(max_length=BODY_BYTES)] | None = None


class Ask(Wire):
    """A tune that is wished for; every wish has the name of its option of `musicgen sample`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    do: Literal["sample", "tweak"]
    model: Words = "folk"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    key: Words | None = None
    meter: Words | None = None
    rhythm: Words | None = None
    bars: int | None = None
    min_bars: int | None = None
    form: Words | None = None
    pickup: int | Words | None = None
    range: Words | None = None
    end: Words | None = None
    tempo: float | None = None
    program: int | Words | None = None
    max_copy: int | None = None
    primer: PrimerSent | None = None
    of: TuneId | None = Field(None, description="tweak: the tune that is varied")
    keep: Words | None = Field(None, description="tweak: bars that stay, such as 1-8,13-16")


class JobId(Wire):
    """A job that waits or is at work."""

    id: str


class JobState(Wire):
    """How a job stands."""

    state: Literal["waiting", "working", "done", "failed", "cancelled"]
    ahead: int = Field(description="jobs that come before it")
    bars: int = Field(description="bars written so far")
    of: int | None = Field(description="bars to write, at the most, where that is known")
    tune: str | None = Field(description="the tune's id, once it is done")
    error: str | None


class TuneShown(BaseModel):
    """All that a page shows of a tune."""

    id: str
    kept: bool
    told: list[str] = Field(description="what was changed of a primer, what candidates are worth")
    wishes: dict[str, Any] = Field(description="what was asked, by the names of the options")
    seed: int
    title: str
    rhythm: str
    key: str
    meter: str
    qpm: float
    seconds: float
    bars: int = Field(description="as heard")
    numbers: list[int] = Field(description="of measures, as they are printed: a pickup is 0")
    keep_numbers: list[int] = Field(description="of measures, as `keep` names them")
    count_in: dict[str, float] = Field(description="beats before it begins, and seconds of each")
    names: list[str] = Field(description="the name of each note, as its key spells it")
    svg: str = Field(description="the score: note i has the id n{i}, written bar k has m{k}")
    sounds: list[list[float]] = Field(
        description="start and length in seconds, pitch, velocity, part, note, bar"
    )
    heard: list[list[float]] = Field(description="start and end in seconds, written bar")
    programs: list[int]
    recipe: dict[str, Any] | None
    receipt: dict[str, Any] | None
    surprise: dict[str, Any] | None
    abc: str
    midi: str = Field(description="base64")


class Differences(Wire):
    """Where two tunes differ."""

    notes_a: list[int] = Field(description="notes of the first that the second has not")
    notes_b: list[int]
    bars: list[int] = Field(description="written bars that differ, from 0")


class Kept(Wire):
    """A tune on the shelf."""

    id: str
    title: str
    key: str
    meter: str
    bars: int
    when: float = Field(description="seconds since 1970")


class Curve(Wire):
    """Points of a curve."""

    steps: list[int]
    values: list[float]


class Training(Wire):
    """A run in ./checkpoints."""

    run: str
    finished: bool
    updated: float = Field(description="when it last wrote a line, in seconds since 1970")
    step: int
    tokens: int
    best: float | None = Field(description="the best held-out bits a note, or a character, so far")
    loss: Curve = Field(description="nats a token in training, averaged between points")
    held_loss: Curve = Field(description="nats a token of held-out tunes")
    held_bits_per_note: Curve
    has_model: bool = Field(description="whether a model can be heard yet")
