"""The paper's tables, and one of our own, as experiments: what each row trains, which of its numbers are claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lostgan_evaluate.published import BETTER, TITLES, Better
from lostgan_serve.errors import EvaluationError
from lostgan_train.settings import COMPONENTS

GAUGAN = "gaugan"

CLAIMED: Mapping[str, Better] = {**BETTER, "recognised": "higher", "object_map_iou": "higher", "grid": "lower"}
"""Scores that claims are about, and their good direction: the paper's, and three of ours. A weaker grid is
better: that of real images is weaker than any that was generated here."""


@dataclass(frozen=True)
class Model:
    """A network to train. changes: its settings beside those that all rows share. semi: trained by `train_semi`."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    semi: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table.

    key: its short name. method, resolution_px: the row of the paper's table. model: the network to measure. real: the
    same scores on real images, which that network's evaluation measures besides. mask_stages: the last stage that
    refines masks; None stands for all of them. posthoc: GauGAN generates from the network's masks.
    label: its name for people where the paper's would mislead.
    """

    key: str
    method: str
    resolution_px: int | None
    model: Model
    real: bool = False
    mask_stages: int | None = None
    posthoc: bool = False
    label: str = ""

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.label or self.method

    @property
    def measurement(self) -> str:
        """The name of its measurement; rows of the same name share one."""
        stages = "" if self.mask_stages is None else f"-m{self.mask_stages}"
        return f"{self.model.name}{stages}{'-gaugan' if self.posthoc else ''}"


@dataclass(frozen=True)
class Claim:
    """A statement about rows, the paper's or of our own.

    weights: by row; the sum of the rows' scores in these weights is an advantage, positive where the statement holds
    and higher is better. scores: keys of `CLAIMED`, to which it applies. same: the statement is that nothing differs,
    within this share of the score of the row with weight -1.
    """

    text: str
    weights: Mapping[str, float]
    scores: tuple[str, ...]
    same: float | None = None


@dataclass(frozen=True)
class Experiment:
    """A table. table: its number in the paper, None for one of our own, which has a subject. metrics: as in `evaluate
    --metrics`. variant: that of all rows, where they share one. by_label: the paper's rows are labels of one network's
    result."""

    name: str
    table: int | None
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    variant: str | None = None
    by_label: bool = False
    subject: str = ""

    @property
    def title(self) -> str:
        """Its subject."""
        return self.subject if self.table is None else TITLES[self.table]

    @property
    def source(self) -> str:
        """The place in the paper, if it has one."""
        return "not in the paper" if self.table is None else f"table {self.table}"

    def seeds(self) -> int:
        """How often each row is trained, where the user does not say."""
        return _SEEDS if self.claims else 1

    def of_variant(self, variant: str) -> Experiment:
        """The same table for another network. Raises EvaluationError where its rows are of several."""
        if self.variant is None:
            raise EvaluationError(f"--variant {variant}: the rows of {self.name} are of several networks; use --rows")
        models = {row.model.name: _renamed(row.model, self.variant, variant) for row in self.rows}
        rows = tuple(replace(row, model=models[row.model.name]) for row in self.rows)
        return replace(self, rows=rows, variant=variant)

    def with_rows(self, keys: tuple[str, ...]) -> Experiment:
        """The table with some of its rows, and the claims on them. Raises EvaluationError for a row that it does not
        have."""
        known = [row.key for row in self.rows]
        if unknown := [key for key in keys if key not in known]:
            raise EvaluationError(f"--rows {unknown[0]}: {self.name} has {', '.join(known)}")
        rows = tuple(row for row in self.rows if row.key in keys)
        return replace(self, rows=rows, claims=tuple(claim for claim in self.claims if set(claim.weights) <= set(keys)))


_SEEDS = 3
_IMAGE_METRICS = ("is", "fd", "kid", "ds")


def _better(row: str, than: str, *scores: str, text: str) -> Claim:
    return Claim(text, {row: 1.0, than: -1.0}, scores)


def _variant(name: str) -> Model:
    return Model(name, {"variant": name})


def _renamed(model: Model, old: str, new: str) -> Model:
    changes = {**model.changes, "variant": new}
    return replace(model, name=model.name.replace(old, new, 1), changes=changes)


def _changed(variant: str, suffix: str, semi: bool = False, **changes: Any) -> Model:
    return Model(f"{variant}-{suffix}", {"variant": variant, **changes}, semi)


_V1_64, _V1_128, _V2_128, _V2_256, _V2_512 = map(_variant, ("v1-64", "v1-128", "v2-128", "v2-256", "v2-512"))

_GENERATORS = (
    Row("v1-64", "LostGAN-V1", 64, _V1_64),
    Row("v1-128", "LostGAN-V1", 128, _V1_128),
    Row("v2-128", "LostGAN-V2", 128, _V2_128),
    Row("v2-256", "LostGAN-V2", 256, _V2_256),
    Row("v2-512", "LostGAN-V2", 512, _V2_512),
)


def _real(key: str, side_px: int | None, model: Model) -> Row:
    return Row(key, "Real images", side_px, model, real=True)


_TABLE_1 = Experiment(
    "table1",
    1,
    _IMAGE_METRICS,
    (
        _real("real-64", 64, _V1_64),
        _real("real-128", 128, _V2_128),
        _real("real-256", 256, _V2_256),
        _real("real-512", 512, _V2_512),
        *_GENERATORS,
    ),
    (
        _better("v2-128", "v1-128", "IS", "FID", "DS", text="V2 is better than V1 at 128 px"),
        _better("v1-128", "v1-64", "DS", text="V1 is more diverse at 128 px than at 64"),
        _better("v2-256", "v2-128", "DS", text="V2 is more diverse at 256 px than at 128"),
        _better("v2-512", "v2-256", "DS", text="V2 is more diverse at 512 px than at 256"),
        _better("v2-256", "v2-512", "IS", "FID", text="V2 is better at 256 px than at 512"),
    ),
)

_TABLE_2 = Experiment(
    "table2",
    2,
    ("cas",),
    (*_GENERATORS[:4], _real("real", None, _V2_128)),
    (
        _better("v1-128", "v1-64", "CAS", text="V1's objects teach more at 128 px than at 64"),
        _better("v2-128", "v1-128", "CAS", text="V2's objects teach more than V1's at 128 px"),
        _better("v2-128", "v2-256", "CAS", text="V2's objects teach more at 128 px than at 256"),
        _better("real", "v2-128", "CAS", text="real objects teach more than V2's at 128 px"),
    ),
)

_TABLE_3 = Experiment(
    "table3",
    3,
    ("detection",),
    (Row("v2-256", "LostGAN-V2", 256, _V2_256), _real("real", None, _V2_256)),
    (
        _better(
            "real", "v2-256", "AP", "AP50", "AP75", text="a detector finds more in real images than in generated ones"
        ),
    ),
    "v2-256",
)

_TABLE_4 = Experiment(
    "table4", 4, ("nearest-masks",), (Row("v2-256", "mean", 256, _V2_256),), variant="v2-256", by_label=True
)

_TABLE_5 = Experiment(
    "table5",
    5,
    _IMAGE_METRICS,
    (
        Row("i", "(i) D1", 128, _changed("v2-128", "semi-leave-out", True, detections="leave-out")),
        Row(
            "ii",
            "(ii) D1+D2: detection(0.5)",
            128,
            _changed("v2-128", "semi-as-annotated", True, detections="as-annotated"),
        ),
        Row(
            "iii",
            "(iii) D1+D2: detection(0.5) + eqn. 15",
            128,
            _changed("v2-128", "semi-weighted", True, detections="weighted"),
        ),
        Row("iv", "Fully supervised", 128, _V2_128),
    ),
    (
        _better("ii", "i", "IS", "FID", text="detected objects help: (ii) is better than (i)"),
        _better("iii", "ii", "IS", "FID", text="weights by probability (equation 15) help: (iii) is better than (ii)"),
        _better("iv", "i", "IS", "FID", text="all annotations are better than half of them: (iv) than (i)"),
        Claim("(iii) comes nearer to (iv) than to (i)", {"iii": 1.0, "i": -0.5, "iv": -0.5}, ("IS", "FID")),
        Claim("diversity is not affected: (iii) as (iv)", {"iii": 1.0, "iv": -1.0}, ("DS",), same=0.05),
    ),
    "v2-128",
)

_TABLE_6 = Experiment(
    "table6",
    6,
    _IMAGE_METRICS,
    (
        Row(GAUGAN, "GauGAN + our inferred masks", 256, _V2_256, posthoc=True),
        Row("isla", "LostGAN-V2", 256, _V2_256),
        Row("spade", "LostGAN-V2 + SPADE, end to end", 256, _changed("v2-256", "spade", norm="spade")),
    ),
    (
        _better("isla", "spade", "IS", "FID", "DS", text="ISLA-Norm is better than SPADE end to end"),
        _better(GAUGAN, "isla", "IS", "FID", text="GauGAN on the inferred masks is better than LostGAN-V2"),
        _better("isla", GAUGAN, "DS", text="LostGAN-V2 is more diverse than GauGAN on its masks"),
    ),
    "v2-256",
)

_WITHOUT = {
    component: Row(f"without-{component}", method, 128, _changed("v2-128", f"without-{component}", without=[component]))
    for component, method in zip(
        COMPONENTS,
        ("w/o layout-to-mask in G", "w/o mask refinement in G", "w/o image head in D", "w/o object head in D"),
        strict=True,
    )
}
_OTHERS = [row.key for component, row in _WITHOUT.items() if component != "object-head"]

_TABLE_7 = Experiment(
    "table7",
    7,
    _IMAGE_METRICS,
    (*_WITHOUT.values(), Row("full", "Full LostGAN-V2", 128, _V2_128)),
    (
        *(
            _better("full", row.key, "IS", "FID", text=f"the full model is better than {row.method}")
            for row in _WITHOUT.values()
        ),
        Claim(
            "the object head matters most: without it, it is worse than without another component, on average",
            {**dict.fromkeys(_OTHERS, 1 / len(_OTHERS)), "without-object-head": -1.0},
            ("IS", "FID"),
        ),
        _better("without-object-head", "full", "DS", text="without object head in D, it is more diverse"),
    ),
    "v2-128",
)

_TABLE_8 = Experiment(
    "table8",
    8,
    ("is", "fd", "kid"),
    (
        *(
            Row(f"m{stage}", method, 256, _V2_256, mask_stages=stage)
            for stage, method in enumerate(("m0", "m0 + m1", "m0 ... m2", "m0 ... m3", "m0 ... m4"))
        ),
        Row("full", "m0 ... m5", 256, _V2_256, label="all stages"),
    ),
    (
        _better("full", "m0", "IS", "FID", text="all stages are better than none"),
        _better("m0", "m1", "IS", "FID", text="no stage is better than the first alone"),
        _better("full", "m2", "IS", "FID", text="all stages are better than the first two"),
        _better("full", "m3", "IS", "FID", text="all stages are better than the first three"),
    ),
    "v2-256",
)


class _Option(NamedTuple):
    """An option of training. score: what it is there for. name: for people."""

    changes: Mapping[str, Any]
    score: str
    name: str


_OPTIONS = {
    "max-pool-masks": _Option({"max_pool_masks": True}, "recognised", "masks that are max-pooled for coarse maps"),
    "label-context": _Option({"label_context": True}, "recognised", "the labels' context"),
    "noise": _Option({"noise": True}, "grid", "noise"),
    "texture": _Option({"texture_weight": "1"}, "grid", "the loss on textures"),
    "diversity": _Option({"diversity_weight": "0.012"}, "DS", "the loss on diversity"),
    "masks": _Option({"mask_weight": "3"}, "object_map_iou", "the loss on masks"),
}
"""The options by the keys of their rows."""

_OPTIONS_TABLE = Experiment(
    "options",
    None,
    ("fd", "kid", "ds", "recognition", "object-maps", "look"),
    (
        Row("base", "LostGAN-V2", 128, _V2_128, label="none of them"),
        *(
            Row(key, "LostGAN-V2", 128, _changed("v2-128", f"with-{key}", **each.changes), label=f"with {each.name}")
            for key, each in _OPTIONS.items()
        ),
    ),
    tuple(
        _better(key, "base", each.score, "FID", text=f"it is better with {each.name}") for key, each in _OPTIONS.items()
    ),
    "v2-128",
    subject="Options of training, each alone",
)

EXPERIMENTS: Mapping[str, Experiment] = {
    **{
        experiment.name: experiment
        for experiment in (_TABLE_1, _TABLE_2, _TABLE_3, _TABLE_4, _TABLE_5, _TABLE_6, _TABLE_7, _TABLE_8)
    },
    "semi": replace(_TABLE_5, name="semi"),
    _OPTIONS_TABLE.name: _OPTIONS_TABLE,
}
"""The experiments by name; `semi` is another name of table 5."""
