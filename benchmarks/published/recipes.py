"""How each published benchmark is trained: the recipe of its figure, by the name of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from musicgen.config import (
    CONTEXTS,
    ECHO_FIELDS,
    FRAME_FIELDS,
    ModelSettings,
    TrainingSettings,
)
from musicgen.errors import InvalidValue
from musicgen.tokens.frames import FRAMES
from musicgen.typed_data import parse_decimal

FOLLOWING_STORED_KEY: Final = " ".join(FRAME_FIELDS)
IN_ANY_KEY: Final = " ".join(name for name in FRAME_FIELDS if name != "key")


@dataclass(frozen=True)
class Recipe:
    """The shape of a model, and how it is trained."""

    model: ModelSettings
    training: TrainingSettings
    transpositions: tuple[int, ...] = (0,)  # semitones; what a piece is scored in, and averaged

    def change(self, changes: Mapping[str, str]) -> Recipe:
        """Return the recipe with some settings changed, by name.

        Raises:
            InvalidValue: a setting is unknown, or its value is invalid.
        """
        changed = replace(
            self, model=_change(self.model, changes), training=_change(self.training, changes)
        )
        return changed.check(changes)

    def drop_fields(self, names: Sequence[str]) -> Recipe:
        """Return the recipe of a model that does not read some fields of the context.

        Raises:
            InvalidValue: the model reads none of a name.
        """
        read = self.model.context_fields
        if unknown := sorted(set(names) - set(read)):
            raise InvalidValue(f"--without {unknown[0]}: choose some of {', '.join(read)}")
        kept = " ".join(name for name in read if name not in names)
        return replace(self, model=replace(self.model, context=kept))

    def check(self, changes: Mapping[str, str]) -> Recipe:
        """Return the recipe. Raises InvalidValue if neither part has a setting that was changed."""
        names = {setting.name for part in (self.model, self.training) for setting in fields(part)}
        if unknown := sorted(changes.keys() - names):
            raise InvalidValue(f"--set {unknown[0]}: choose one of {', '.join(sorted(names))}")
        return self


def _change(settings: Any, changes: Mapping[str, str]) -> Any:
    values: dict[str, Any] = {}
    for setting in fields(settings):
        if setting.name not in changes:
            continue
        text, current = changes[setting.name], getattr(settings, setting.name)
        if isinstance(current, str):
            values[setting.name] = text
        else:
            number = parse_decimal(text, f"--set {setting.name}", 0, 1e12)
            values[setting.name] = type(current)(number)
    return replace(settings, **values)


ALL_KEYS: Final = tuple(range(-5, 7))  # transpositions, in semitones
_SHORT_LAGS: Final = ("1", "2", "3", "4", "8", "16", "32", "_echo")
_SHORT_CONTEXT: Final = " ".join(
    name
    for name in FRAME_FIELDS
    if not name.startswith(("ago", "apart", "run"))
    or name.removeprefix("ago").removeprefix("apart").removeprefix("run") in _SHORT_LAGS
)
FRAME_MODEL: Final = ModelSettings(
    len(FRAMES), hidden=256, embedding=64, tied=False, dropout=0.3, embedding_dropout=0.05,
    context=FOLLOWING_STORED_KEY, context_dropout=0.1,
)  # fmt: skip
FRAME_TRAINING: Final = TrainingSettings(
    3_500_000, lanes=16, bptt=64, learning_rate=3e-3, weight_decay=0.05, patience=10**6,
    precision="bf16", transposed=True, evaluate_every=600_000,
)  # fmt: skip
RECIPES: Final = {
    "JSB_Chorales": Recipe(
        replace(
            FRAME_MODEL, hidden=320, dropout=0.6, embedding_dropout=0.1, weight_dropout=0.3,
            input_dropout=0.3, context=_SHORT_CONTEXT,
        ),
        replace(FRAME_TRAINING, tokens=4_000_000, bptt=48, evaluate_every=250_000),
        ALL_KEYS,
    ),
    "Nottingham": Recipe(FRAME_MODEL, FRAME_TRAINING),
    "MuseData": Recipe(
        replace(FRAME_MODEL, hidden=320, dropout=0.5, input_dropout=0.1, weight_dropout=0.2),
        replace(FRAME_TRAINING, tokens=6_000_000, evaluate_every=1_000_000),
    ),
    "Piano_midi": Recipe(
        replace(
            FRAME_MODEL, hidden=320, dropout=0.65, embedding_dropout=0.1, weight_dropout=0.4,
            input_dropout=0.3, context_dropout=0.2,
        ),
        replace(FRAME_TRAINING, tokens=7_000_000, evaluate_every=700_000),
    ),
    "Jsb16thSeparated": Recipe(
        replace(
            FRAME_MODEL, hidden=320, dropout=0.6, embedding_dropout=0.1, weight_dropout=0.3,
            input_dropout=0.3, context_dropout=0.2, context=IN_ANY_KEY,
        ),
        replace(FRAME_TRAINING, tokens=9_000_000, bptt=48, evaluate_every=750_000),
    ),
}  # fmt: skip
FOLKWIKI: Final = Recipe(
    ModelSettings(
        1, hidden=256, embedding=128, tied=False, dropout=0.3, embedding_dropout=0.05,
        context=f"{CONTEXTS['all']} {' '.join(ECHO_FIELDS)}", context_dropout=0.1,
    ),
    TrainingSettings(
        3_500_000, lanes=16, bptt=64, learning_rate=3e-3, weight_decay=0.05, patience=10**6,
        precision="bf16", evaluate_every=500_000,
    ),
)  # fmt: skip
