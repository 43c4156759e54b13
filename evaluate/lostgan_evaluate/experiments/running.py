"""Running an experiment: training the networks of its rows, measuring them, and tabulating after each measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from lostgan_evaluate.contents import content_of
from lostgan_evaluate.evaluation import EVALUATION_FILE, data_facts, evaluate, open_tools
from lostgan_evaluate.experiments.known import Known
from lostgan_evaluate.experiments.tables import Experiment, Model, Row
from lostgan_evaluate.experiments.tabulate import TABLE_FILE, Outcome, write_table
from lostgan_evaluate.metrics import registry
from lostgan_evaluate.subjects import Choice, evaluated_source, subject_of_model
from lostgan_serve.errors import DivergedError, EvaluationError
from lostgan_serve.files import reading, scratch_folder, writable, write_file
from lostgan_serve.progress import SILENT, Progress
from lostgan_train.data import Source
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint, random_checkpoint
from lostgan_train.networks.generator import GeneratorConfig
from lostgan_train.networks.runner import GeneratorRunner
from lostgan_train.run_file import RUN_FILE, read_run
from lostgan_train.settings import SemiSettings, TrainSettings, build, option_name
from lostgan_train.states import newest_step, states_in, step_of
from lostgan_train.training import train, train_semi

GENERATOR_FILE = "generator.safetensors"

_REHEARSED = 8  # layouts

_FREE = frozenset(
    ("steps", "workers", "accumulate", "checkpoint_every", "keep", "sample_every", "images", "splits", "strict")
)
"""Settings in which a network that is there may differ: they change nothing, or more steps follow."""


@dataclass(frozen=True)
class Plan:
    """All that an experiment depends on.

    options: settings that all rows share, `data` among them. out: folder of the table. networks: folder of the networks
    and their evaluations, which several experiments may share. held_out: folder of the data to evaluate on; None for
    another split of the same data. metrics: of `evaluate`. count: layouts to evaluate on; None for all. samples: styles
    of each; None for the protocol's. weights: folder of weight files. known: values that are measured already.
    """

    experiment: Experiment
    options: Mapping[str, Any]
    out: Path
    networks: Path
    seeds: int
    metrics: tuple[str, ...]
    held_out: Path | None = None
    count: int | None = None
    samples: int | None = None
    weights: Path | None = None
    known: Known | None = None

    @property
    def data(self) -> Path:
        """Folder of the training data."""
        return Path(self.options["data"]).absolute()

    def choice(self, most: int | None = None) -> Choice:
        """The data to evaluate on. most: layouts at most."""
        training = self.data if self.held_out is not None else None
        counts = [count for count in (self.count, most) if count is not None]
        return Choice(self.held_out or self.data, training, samples=self.samples, count=min(counts, default=None))

    def jobs(self) -> list[tuple[Model, int]]:
        """The networks to train: every one with the first seed, then with the next, so that comparisons come early."""
        models = {row.model.name: row.model for row in self.rows()}
        return [(model, seed) for seed in range(self.seeds) for model in models.values()]

    def rows(self) -> list[Row]:
        """The rows, but for stages that the network does not have, and for the last one's, which the full one is."""
        return [row for row in self.experiment.rows if row.mask_stages is None or row.mask_stages < _stages(row)]

    def rows_of(self, model: Model) -> list[Row]:
        """The rows of one network."""
        return [row for row in self.rows() if row.model.name == model.name]


def _stages(row: Row) -> int:
    return GeneratorConfig(row.model.changes["variant"], 1).mask_stages


def run(plan: Plan, progress: Progress = SILENT) -> Path:
    """Train, evaluate and tabulate. Returns table.json in `plan.out`, beside which stands table.md.

    What is trained or evaluated already is not done again. A network whose training diverges is left out. Raises
    KeyboardInterrupt where a signal stopped a training, whose state is saved; EvaluationError for a network that is
    there and was trained otherwise, and what training and evaluation raise.
    """
    budget = _budget(plan)
    if plan.known is not None:
        plan.known.check(plan.experiment, budget)
        source = evaluated_source(plan.choice())
        plan.known.check_data(data_facts(source.examples, source))
    jobs = [job for job in plan.jobs() if not _is_known(plan, *job)]
    for model, seed in jobs:  # first: what would be refused should not cost the hours of the others
        _check_same(plan, model, seed, settings_of(plan, model, seed))
    missing = _rehearse(plan, progress)
    outcome = Outcome(replace(plan.experiment, rows=tuple(plan.rows())), plan.seeds, missing=missing, known=plan.known)
    with writable(plan.out), writable(plan.networks):
        for number, (model, seed) in enumerate(jobs, 1):
            progress.note(f"network {number} of {len(jobs)}: {model.name}, seed {seed}")
            try:
                checkpoint = _trained(plan, model, seed, progress)
            except DivergedError as error:
                progress.note(f"left out: {error}")
                outcome.missing[f"{model.name}, seed {seed}"] = "its training diverged"
            else:
                _measure_all(plan, model, seed, checkpoint, outcome, progress)
            write_table(plan.out, outcome, budget)
        if not jobs:
            write_table(plan.out, outcome, budget)
    return plan.out / TABLE_FILE


def _is_known(plan: Plan, model: Model, seed: int) -> bool:
    """Whether every row of a network has values with this seed."""
    return plan.known is not None and all(plan.known.scores(row, seed) for row in plan.rows_of(model))


def _trained(plan: Plan, model: Model, seed: int, progress: Progress) -> Path:
    """The checkpoint of a network, trained up to the budget. Raises KeyboardInterrupt where a signal stopped it."""
    out, settings = _folder(plan, model, seed), settings_of(plan, model, seed)
    checkpoint = out / GENERATOR_FILE
    with reading(out):
        resume = (out / RUN_FILE).exists()
        if resume and _finished(out, settings.steps):
            return checkpoint
    if isinstance(settings, SemiSettings):
        train_semi(settings, out, resume=resume, progress=progress)
    else:
        train(settings, out, resume=resume, progress=progress)
    if newest_step(out) < settings.steps:
        progress.note("the same command goes on with the experiment")
        raise KeyboardInterrupt
    return checkpoint


def _finished(out: Path, steps: int) -> bool:
    """Whether a network was trained for so many steps, and released: a kill may have come between the two."""
    states, checkpoint = states_in(out), out / GENERATOR_FILE
    if not states or step_of(states[0]) < steps or not checkpoint.exists():
        return False
    return checkpoint.stat().st_mtime_ns >= states[0].stat().st_mtime_ns


def _folder(plan: Plan, model: Model, seed: int) -> Path:
    return plan.networks / f"{model.name}-seed{seed}"


def settings_of(plan: Plan, model: Model, seed: int) -> TrainSettings:
    """The settings of a network. No samples are generated in training: they would cost a classifier each time."""
    kind = SemiSettings if model.semi else TrainSettings
    known = {item.name for item in fields(kind)}
    values = {name: value for name, value in plan.options.items() if name in known} | dict(model.changes)
    if model.semi:
        values["detector_folder"] = plan.networks / f"detector-seed{seed}"
    settings = build(kind, values | {"seed": seed})
    return replace(settings, sample_every=settings.steps + 1)


def _check_same(plan: Plan, model: Model, seed: int, settings: TrainSettings) -> None:
    """Raise EvaluationError where a network is there already that was trained otherwise, or for longer."""
    out = _folder(plan, model, seed)
    with reading(out):
        if not (out / RUN_FILE).exists():
            return
        trained_steps = newest_step(out)
    found = read_run(type(settings), out).settings.to_json()
    for name, value in settings.to_json().items():
        if name not in _FREE and found[name] != value:
            raise EvaluationError(
                f"{out}: was trained with {option_name(name)} {found[name]}, not {value}; give the same, or another "
                "--networks"
            )
    if trained_steps > settings.steps:
        raise EvaluationError(
            f"{out}: was trained for {trained_steps} steps, more than --steps {settings.steps}: budgets would not be "
            "equal; give as many, or another --networks"
        )


def _measure_all(plan: Plan, model: Model, seed: int, checkpoint: Path, outcome: Outcome, progress: Progress) -> None:
    """Measure all that rows ask of a network."""
    rows = {row.measurement: row for row in plan.rows_of(model)}
    load = cache(lambda: load_checkpoint(checkpoint))  # takes seconds, for nothing where all is measured
    for name, row in rows.items():
        if row.posthoc:
            outcome.missing[f"{name}, seed {seed}"] = "generate it by lostgan-serve gaugan, which takes its weights"
        else:
            outcome.evaluations[name, seed] = _evaluated(plan, row, seed, checkpoint, load, progress)


def _evaluated(plan: Plan, row: Row, seed: int, file: Path, load: Callable[[], Checkpoint], progress: Progress) -> Path:
    """The evaluation.json of a network with some of its stages. Its folder's name depends on all that it was made of,
    so that another budget or other data are measured anew."""
    folders = [str(folder and folder.absolute()) for folder in (plan.data, plan.held_out, plan.weights)]
    made_of = [content_of(file), *folders, plan.count, plan.samples, *plan.metrics]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]
    out = file.parent / f"evaluation-{row.measurement}-{digest}"
    done, evaluation = out / "complete", out / EVALUATION_FILE
    with reading(out):
        if done.exists() and evaluation.exists():
            return evaluation
    _evaluate(plan, row, seed, load(), out, progress)
    write_file(done, b"")  # evaluation.json is there after the first metric already
    return evaluation


def _rehearse(plan: Plan, progress: Progress) -> dict[str, str]:
    """Generate a few layouts by an untrained network, so that what evaluation would refuse is told before the hours of
    training. Returns the metrics that cannot be measured, with the reasons. Raises EvaluationError where none can."""
    metrics = [registry.metric(name) for name in plan.metrics]
    with scratch_folder() as folder:
        tools = open_tools(folder, plan.weights)
        subject = subject_of_model("rehearsal", _untrained, plan.choice(_REHEARSED), folder)
        reasons = {metric.name: metric.why_not(subject, tools) for metric in metrics}
    missing = {name: reason for name, reason in reasons.items() if reason}
    for name, reason in missing.items():
        progress.note(f"note: {name} is left out: {reason}")
    if len(missing) == len(plan.metrics):
        raise EvaluationError(f"--metrics: nothing can be measured; {next(iter(missing.values()))}")
    return missing


def _untrained(source: Source, _side_px: int | None) -> GeneratorRunner:
    return GeneratorRunner(random_checkpoint("v1-64", source.vocabulary, seed=0, ch=1))


def _evaluate(plan: Plan, row: Row, seed: int, checkpoint: Checkpoint, out: Path, progress: Progress) -> None:
    tools = open_tools(out, plan.weights, shared=plan.networks / "measuring", seed=seed, progress=progress)
    with closing(GeneratorRunner(checkpoint, row.mask_stages)) as runner:
        name = f"{row.measurement}, seed {seed}"
        subject = subject_of_model(name, lambda *_: runner, plan.choice(), out, seed=seed, progress=progress)
        evaluate(subject, tools, [name for name in plan.metrics if not registry.metric(name).why_not(subject, tools)])


def _budget(plan: Plan) -> dict[str, Any]:
    """The facts that all rows share. Folders by name: where they lie is a machine's own."""
    settings = {name: value for job in plan.jobs() for name, value in settings_of(plan, *job).to_json().items()}
    facts = {name: settings[name] for name in plan.options if name in settings}
    facts |= {name: value for name, value in plan.options.items() if isinstance(value, Path)}
    facts |= {"held_out": plan.held_out, "count": plan.count, "samples": plan.samples}
    return {name: value.name if isinstance(value, Path) else value for name, value in facts.items()}
