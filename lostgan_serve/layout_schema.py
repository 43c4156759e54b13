"""layout.json as it is written: its fields, their bounds, its JSON Schema, and the words for errors."""

from __future__ import annotations

import difflib
import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from lostgan_serve.choices import MAX_SEED
from lostgan_serve.contract import MAX_CODE, MAX_SLOTS, Z_DIM

MAX_TRUNCATION = MAX_CODE
"""Beyond this, truncation changes nothing."""
MIN_TRUNCATION = 0.05
"""Below this, codes would have to be redrawn too often."""

_MOST_FIELDS = 32  # of any object in JSON; more are not told one by one
_MOST_SHOWN = 40  # characters of a value in a message

MixPath = Literal["linear", "spherical"]
"""The ways between two style codes: straight as in the paper's figure 12, or turning evenly from one to the other."""


def _without_controls(text: str) -> str:
    """Refuse characters that no file, terminal or hash of a style code can hold. Raises ValueError."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("holds a control character or half of a character")
    return text


Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)]
Text = Annotated[
    str,
    Field(
        min_length=1, max_length=200, strict=True, json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
    ),
    AfterValidator(_without_controls),
]
Side = Annotated[Finite, Field(gt=0)]

_PERSISTS = (
    "A style is a function of the seed and the object's id alone: adding, moving, resizing, relabelling, reordering or "
    "removing other objects leaves it as it is, bit for bit."
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        """Refuse hundreds of thousands of fields before each of them is an error."""
        if isinstance(value, Mapping) and len(value) > _MOST_FIELDS:
            known = ", ".join(field.alias or name for name, field in cls.model_fields.items())
            raise ValueError(f"holds {len(value)} fields; known: {known}")
        return value


class DrawnMix(_Strict):
    """A style between those of two seeds."""

    start: Annotated[Seed, Field(alias="from", description="Seed of the first style.")]
    to: Annotated[Seed, Field(description="Seed of the second style.")]
    mix: Annotated[Finite, Field(ge=0, le=1, description="Share of the second style: 0 is the first, 1 the second.")]
    path: Annotated[
        MixPath, Field(description="linear: straight, as the paper's figure 12; spherical: turning evenly.")
    ] = "linear"


class DrawnCode(_Strict):
    """A style given by the elements of its code, which is used as it is."""

    code: Annotated[
        list[Annotated[Finite, Field(ge=-MAX_TRUNCATION, le=MAX_TRUNCATION)]],
        Field(min_length=Z_DIM, max_length=Z_DIM, fail_fast=True),
    ]


_MIX, _CODE = "a mix", "a code"  # tags, which pydantic puts into the places of errors


def _form(value: object) -> str:
    return _CODE if isinstance(value, DrawnCode) or (isinstance(value, Mapping) and "code" in value) else _MIX


class _Styled(_Strict):
    @model_validator(mode="after")
    def _one_style(self) -> _Styled:
        if {"seed", "style"} <= self.model_fields_set:
            raise ValueError("holds both a seed and a style; leave one of them out")
        return self


class DrawnObject(_Styled):
    model_config = ConfigDict(json_schema_extra={"not": {"required": ["seed", "style"]}})
    label: Annotated[Text, Field(description="A word of the model's vocabulary; `lostgan-serve labels` lists them.")]
    box: Annotated[
        tuple[Finite, Finite, Finite, Finite],
        Field(
            description="x, y, width, height from the top left: in pixels of the canvas, without a canvas in [0, 1]."
        ),
    ]
    id: Annotated[
        Text | None,
        Field(description=f"Its own name; by default its label and number, such as tree-2. {_PERSISTS}"),
    ] = None
    seed: Annotated[Seed | None, Field(description=f"Of its style; by default the layout's. {_PERSISTS}")] = None
    style: Annotated[
        Annotated[Annotated[DrawnMix, Tag(_MIX)] | Annotated[DrawnCode, Tag(_CODE)], Discriminator(_form)] | None,
        Field(description="In place of a seed."),
    ] = None


class Drawn(_Styled):
    """A layout of lostgan-serve: boxes with labels, and the seeds of their styles."""

    model_config = ConfigDict(title="layout.json", json_schema_extra={"not": {"required": ["seed", "style"]}})
    objects: Annotated[
        list[DrawnObject],
        Field(min_length=1, max_length=MAX_SLOTS, fail_fast=True, description="The objects, in any order."),
    ]
    canvas: Annotated[
        tuple[Side, Side] | None, Field(description="Width and height that boxes are in the pixels of.")
    ] = None
    seed: Annotated[
        Seed, Field(description=f"Of the image's style and all objects' without their own. {_PERSISTS}")
    ] = 0
    truncation: Annotated[
        Annotated[Finite, Field(ge=MIN_TRUNCATION, le=MAX_TRUNCATION)],
        Field(description="Elements of style codes beyond it are drawn again; smaller is more ordinary."),
    ] = 2.0
    style: Annotated[DrawnMix | None, Field(description="In place of the seed.")] = None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of layout.json. It cannot say that boxes lie inside the canvas and that ids differ."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Drawn.model_json_schema()}


def explain(error: ValidationError) -> str:
    """The first thing wrong as `field: what is wrong; the fix`."""
    first = error.errors()[0]
    place = [part for part in first["loc"] if part not in (_MIX, _CODE)]
    path = ""
    for part in place:
        name = part if str(part).isidentifier() and len(str(part)) <= _MOST_SHOWN else shorten(part)
        path += f"[{part}]" if isinstance(part, int) else f".{name}" if path else str(name)
    path = path or "the layout"
    if first["type"] == "extra_forbidden":
        model = _model_at(first["loc"])
        known = [field.alias or name for name, field in model.model_fields.items()]
        near = difflib.get_close_matches(str(place[-1])[:_MOST_SHOWN], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
        return f"{path}: unknown field; {hint}"
    fix = FIXES.get(next((part for part in reversed(place) if isinstance(part, str)), "layout"))
    if first["type"] == "missing":
        return f"{path}: missing; {fix}"
    if first["type"] == "model_type":
        return f"{path}: input should be an object, not {shorten(first['input'])}; {fix}"
    given = "" if isinstance(first["input"], Mapping | list) else f", not {shorten(first['input'])}"
    message = str(first["msg"]).removeprefix("Value error, ")
    words = f"{path}: {message[0].lower()}{message[1:]}{given}"
    return words if ";" in message else f"{words}; {fix}"  # some state their fix


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that a field of an error belongs to."""
    if "style" in loc[:-1]:
        return DrawnCode if _CODE in loc else DrawnMix
    return DrawnObject if len(loc) > 1 else Drawn


_SEED_FIX = f"a seed is a whole number from 0 to {MAX_SEED}"

FIXES = {
    "layout": 'a layout is {"objects": [{"label": ..., "box": [x, y, width, height]}, ...]}',
    "objects": f'give at least one {{"label": ..., "box": [x, y, width, height]}}, and {MAX_SLOTS} at most',
    "box": "a box is four finite numbers [x, y, width, height]",
    "canvas": "canvas is [width, height] in pixels",
    "label": 'a label is a text such as "sky"; `lostgan-serve labels` lists them',
    "id": "an id is a text that no other object has",
    "seed": _SEED_FIX,
    "style": 'a style is {"from": seed, "to": seed, "mix": from 0 to 1}',
    "from": _SEED_FIX,
    "to": _SEED_FIX,
    "mix": "mix is the share of the second style, from 0 to 1",
    "path": "path is linear or spherical",
    "code": f"a code is a list of {Z_DIM} numbers from {-MAX_TRUNCATION:g} to {MAX_TRUNCATION:g}",
    "truncation": f"truncation is a number from {MIN_TRUNCATION} to {MAX_TRUNCATION:g}",
}


def shorten(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = json.dumps(value, default=str)
    except RecursionError:
        return "brackets within brackets"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
