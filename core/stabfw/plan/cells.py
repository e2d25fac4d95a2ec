"""The table of cells that a spec asks for, under content keys, grouped by loaded model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, reduce
from typing import Any

from stabfw.components import (
    Accelerator,
    AnswerKind,
    Artefact,
    Benchmark,
    Component,
    GenerationOptions,
    Kind,
    LoadRequest,
    Metric,
    Model,
    ModelInfo,
    Perturbation,
)
from stabfw.errors import DataError, PluginError, SpecError, blaming
from stabfw.plan.batches import Batches, batch_plan
from stabfw.plan.conditions import BASELINE, CLEAN, Condition, Role
from stabfw.plan.datasets import Dataset, open_dataset, outline_dataset
from stabfw.plan.environment import environment
from stabfw.plan.judges import Judge, fixed, require_judge
from stabfw.plan.leaks import refuse_leak
from stabfw.plan.recorders import Recorder
from stabfw.registry import Registry
from stabfw.spec import ExperimentSpec, components, label
from stabfw.store import Store, digest

_UNFITTED = "not fitted yet"


@dataclass(frozen=True)
class Member:
    """One accelerator of a stack.

    Attributes:
        type: Name of its plugin.
        component: The accelerator.
        origin: Name, distribution and version, for messages and provenance.
        recipe: What its artefact is made from, as a hash; empty if it needs none.
        artefact: Digest of the artefact, `not fitted yet`, or empty if it needs none.
    """

    type: str
    component: Accelerator[Any]
    origin: str
    recipe: str = ""
    artefact: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """What enters the key."""
        return {**component_fields(self.type, self.component), "artefact": self.artefact}

    @property
    def transforms(self) -> bool:
        """Whether it changes the model for good, so that the loaded model cannot be shared."""
        return type(self.component).transform is not Accelerator.transform


@dataclass(frozen=True)
class Cell:
    """One model under one stack answering one benchmark under one perturbation.

    Attributes:
        condition: Its names.
        key: Hash of `fields`.
        fields: Everything that can change an answer, as JSON-compatible values.
        dataset: What is asked.
        perturbations: Applied in order to every instance; empty for a clean cell.
        seed: Seed of the perturbations.
        members: The stack, first to last.
        options: How answers are generated.
        batches: The frozen batch plan.
        mode: `generate`, or `likelihood` where the likeliest option is the answer.
        parent: Key of the cell whose answers are scored here; empty where answers are given.
        recorders: What is recorded besides the answers.
    """

    condition: Condition
    key: str
    fields: Mapping[str, Any]
    dataset: Dataset
    perturbations: tuple[tuple[str, Perturbation[Any]], ...]
    seed: int
    members: tuple[Member, ...]
    options: GenerationOptions
    batches: Batches
    mode: str = "generate"
    parent: str = ""
    recorders: tuple[Recorder, ...] = ()

    @property
    def label_preserved(self) -> bool:
        """Whether no perturbation can change the right answer of any of its questions."""
        kinds = {AnswerKind(row.kind) for row in self.dataset.rows}
        return all(p.gold_holds(kind) for _, p in self.perturbations for kind in kinds)


@dataclass(frozen=True)
class Session:
    """Cells that one loaded model serves.

    Attributes:
        key: Hash of all that decides what the loaded model is.
        label: Readable name.
        model: The model.
        info: What it was described as, to be held against what is loaded.
        request: How to load it.
        cells: Grouped by stack.
    """

    key: str
    label: str
    model: Model[Any]
    info: ModelInfo
    request: LoadRequest
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Fit:
    """A calibration or training that has to run before cells can have their keys."""

    recipe: str
    label: str
    model: Model[Any]
    request: LoadRequest
    member: Member
    dataset: Dataset
    instance_ids: tuple[str, ...]


@dataclass(frozen=True)
class Unsupported:
    """A cell that cannot be run, and why."""

    condition: Condition
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that an experiment has to compute.

    Attributes:
        sessions: In the order in which they run, baselines first.
        named: Key of every condition; two conditions that ask for the same share a key.
        base_of: Key of each compared cell to the key of its baseline.
        unsupported: Cells that cannot run.
        fits: Calibrations to run first; afterwards the plan has to be made anew.
        notices: Sentences for the user.
        missing: What is not on this machine, and what to do about it. Only an outline has such;
            its keys are not those that a run would find.
        judge: Who judges free answers, or nobody.
    """

    sessions: tuple[Session, ...]
    named: Mapping[Condition, str]
    base_of: Mapping[str, str]
    unsupported: tuple[Unsupported, ...]
    fits: tuple[Fit, ...]
    notices: tuple[str, ...]
    missing: tuple[str, ...] = ()
    judge: Judge | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, each once."""
        return tuple(cell for session in self.sessions for cell in session.cells)

    @property
    def compared(self) -> tuple[tuple[str, str], ...]:
        """Keys of each baseline and each cell that is held against it, repeats for noise too."""
        pairs = [
            (self.base_of[key], key)
            for condition, key in self.named.items()
            if condition.role is not Role.LIKELIHOOD and key in self.base_of
        ]
        return tuple(pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1])


def component_fields(kind: str, component: Component[Any]) -> dict[str, Any]:
    """What of a component enters a key."""
    return {
        "type": kind,
        "config": component.config.model_dump(
            mode="json", exclude={"type", *component.config.aside}
        ),
        "behaviour": component.behaviour_version,
        "content": dict(component.fingerprint()),
    }


def make_plan(
    spec: ExperimentSpec, registry: Registry, store: Store, *, outline: bool = False
) -> Plan:
    """Lay out the cells of an experiment and their keys. Loads no model.

    Args:
        spec: What the user asks for.
        registry: Where components come from.
        store: Holds the descriptions of data sets and the artefacts of earlier calibrations.
        outline: Be content with what is known of data and checkpoints that are not here.

    Returns:
        The plan.

    Raises:
        SpecError: Two members of a stack change the same part of the model, or calibration
            data shares an image with what is evaluated.
        DataError: A model's or benchmark's files are missing or unreadable.
    """
    return _Planner(spec, registry, store, outline).plan()


@dataclass(frozen=True)
class _Stack:
    name: str
    role: Role
    members: tuple[tuple[str, Accelerator[Any]], ...]
    draw: int = 0


@dataclass(frozen=True)
class _Model:
    name: str
    model: Model[Any]
    request: LoadRequest
    info: ModelInfo


@dataclass(frozen=True)
class _Scenario:
    dataset: Dataset
    perturbation: str
    perturbations: tuple[tuple[str, Perturbation[Any]], ...]
    seed: int


class _Planner:
    def __init__(
        self, spec: ExperimentSpec, registry: Registry, store: Store, outline: bool
    ) -> None:
        self.spec = spec
        self.outline = outline
        self.missing: list[str] = []
        # Asked for each of thousands of cells, and slow to tell.
        self.environment = cache(environment)
        self.registry = registry
        self.store = store
        self.notices: list[str] = []
        self.unsupported: list[Unsupported] = []
        self.fits: dict[str, Fit] = {}
        self.sessions: dict[str, list[Cell]] = {}
        self.loads: dict[str, tuple[_Model, LoadRequest, str]] = {}
        self.named: dict[Condition, str] = {}
        self.base_of: dict[str, str] = {}

    def plan(self) -> Plan:
        judge = self._judge()
        datasets = [self._dataset(config) for config in self.spec.benchmarks]
        self.calibrations = self._calibrations(datasets)
        scenarios = self._scenarios(datasets)
        models = [self._model(config) for config in self.spec.models]
        self.recorders = self._wanted()
        for model in models:
            for scenario in scenarios:
                if reason := self._mute(model):
                    self._unsupported(model, BASELINE, Role.BASELINE, scenario, reason)
                else:
                    self._baseline(model, model.request, scenario)
        for model in models:
            for stack in self._stacks(model):
                self._compared(model, stack, scenarios)
        return Plan(
            sessions=tuple(self._session(key, cells) for key, cells in self.sessions.items()),
            named=self.named,
            base_of=self.base_of,
            unsupported=tuple(self.unsupported),
            fits=tuple(self.fits.values()),
            notices=tuple(dict.fromkeys(filter(None, self.notices))),
            missing=tuple(dict.fromkeys(self.missing)),
            judge=judge,
        )

    # What the spec names

    def _judge(self) -> Judge | None:
        wanted = self.spec.judge
        if wanted is None:
            return None
        model = self._model(wanted.model)
        # What is not here yet gets its hashes when it comes.
        if not self.missing:
            fixed(model.name, model.request, model.info)
        return Judge(
            name=model.name,
            model=model.model,
            request=model.request,
            fields=self._load_fields(model, model.request),
            options=GenerationOptions(wanted.max_new_tokens, top_tokens=1),
            repeats=wanted.repeats,
            batch_size=wanted.batch_size,
        )

    def _dataset(self, config: Any) -> Dataset:
        benchmark = _as(Benchmark, components(self.registry, Kind.BENCHMARK, config))
        self.notices.append(benchmark.notice)
        if self.spec.judge is None:
            require_judge(label(config), benchmark)
        elif benchmark.private:
            self.notices.append(
                f"{label(config)}: questions, gold answers and answers of a private benchmark are "
                "shown to the judge, its pictures never"
            )
        dataset = self._open(label(config), config.type, benchmark)
        if not benchmark.representative:
            self.notices.append(
                f"{dataset.name}: a regression test, never an estimate: its questions were chosen "
                "by how they were answered"
            )
        if benchmark.private and self.spec.tracking.images != "none":
            self.notices.append(
                f"{dataset.name}: its pictures are private and left out of reports and tracking; "
                "`private: false` in the benchmark shows them"
            )
        if self.spec.generation.mode == "likelihood":
            _refuse_free_answers(dataset)
        return dataset

    def _open(self, name: str, kind: str, benchmark: Benchmark[Any]) -> Dataset:
        try:
            return open_dataset(self.store, name, kind, benchmark)
        except DataError as error:
            known = outline_dataset(name, kind, benchmark) if self.outline else None
            if known is None:
                raise
            self.missing.append(str(error))
            return known

    def _model(self, config: Any) -> _Model:
        model = _as(Model, components(self.registry, Kind.MODEL, config))
        self.notices.append(model.notice)
        try:
            request = model.request()
            info = model.describe(request)
        except DataError as error:
            known = model.outline() if self.outline else None
            if known is None:
                raise
            self.missing.append(str(error))
            request, info = known
        return _Model(label(config), model, request, info)

    def _wanted(self) -> tuple[Recorder, ...]:
        """What the metrics want to have recorded, each thing once."""
        wanted = {}
        for config in self.spec.metrics:
            metric = _as(Metric, components(self.registry, Kind.METRIC, config))
            recorder = Recorder(config.type, metric, self._origin(config.type, Kind.METRIC))
            with blaming(recorder.origin, "extras()"):
                if recorder.extras:
                    wanted[recorder.key] = recorder
        return tuple(wanted[key] for key in sorted(wanted))

    def _recorders(self, model: _Model) -> tuple[Recorder, ...]:
        able = []
        for recorder in self.recorders:
            with blaming(recorder.origin, "cannot_record()"):
                reason = recorder.metric.cannot_record(model.info)
            if reason:
                self.notices.append(
                    f"{recorder.type}: nothing is recorded of {model.name}, so its numbers are "
                    f"null there: {reason}"
                )
            else:
                able.append(recorder)
        return tuple(able)

    def _scenarios(self, datasets: Sequence[Dataset]) -> list[_Scenario]:
        chains = [
            (
                label(item),
                tuple(
                    (c.type, _as(Perturbation, components(self.registry, Kind.PERTURBATION, c)))
                    for c in item
                ),
            )
            for item in self.spec.perturbations
        ]
        # Grouped by data set, so that each one is loaded once a session.
        scenarios = []
        for dataset in datasets:
            scenarios.append(_Scenario(dataset, CLEAN, (), self.spec.seeds[0]))
            scenarios += [
                _Scenario(dataset, name, chain, seed)
                for name, chain in chains
                for seed in self.spec.seeds
            ]
        return scenarios

    def _stacks(self, model: _Model) -> Iterable[_Stack]:
        stacks = [
            _Stack(
                name,
                Role.STACK,
                tuple(
                    (c.type, _as(Accelerator, components(self.registry, Kind.ACCELERATOR, c)))
                    for c in configs
                ),
            )
            for name, configs in self.spec.stacks.items()
        ]
        for stack in stacks:
            _refuse_shared_slots(stack)
        for stack in stacks:
            yield stack
            yield from self._replicates(model, stack)
        controls = self.spec.controls
        if controls.equal_budget:
            yield from filter(None, map(self._equal_budget, stacks))
        if controls.lossless:
            other = "sdpa" if model.request.attention == "eager" else "eager"
            member = self._accelerator("attention", {"implementation": other})
            yield _Stack(f"attention-{other}", Role.LOSSLESS, (member,))

    def _replicates(self, model: _Model, stack: _Stack) -> Iterable[_Stack]:
        """The stack with what is fitted to other choices of the calibration data."""
        wanted = self.spec.calibration
        if wanted is None or wanted.replicates == 1:
            return
        # What is at hand depends on no data.
        if all(not c.needs_fit or self._at_hand(model, k, c) for k, c in stack.members):
            return
        for draw in range(1, wanted.replicates):
            name = f"{stack.name} (calibration seed {wanted.seed + draw})"
            yield replace(stack, name=name, draw=draw)

    def _equal_budget(self, stack: _Stack) -> _Stack | None:
        controls = [(member, member[1].control()) for member in stack.members]
        if not any(control for _, control in controls):
            return None
        blind = "+".join(
            # A method that is its own control would be taken for itself.
            "blind" if control[0] == kind else control[0]
            for (kind, _), control in controls
            if control
        )
        members = tuple(
            self._accelerator(*control) if control else member for member, control in controls
        )
        return _Stack(f"{blind}@{stack.name}", Role.EQUAL_BUDGET, members)

    def _accelerator(self, kind: str, config: Mapping[str, Any]) -> tuple[str, Accelerator[Any]]:
        cls = self.registry.load(Kind.ACCELERATOR, kind)
        return kind, _as(Accelerator, cls(cls.config_cls(**config)))

    # Cells

    def _baseline(self, model: _Model, request: LoadRequest, scenario: _Scenario) -> str:
        circumstance = _circumstance(model.request, request)
        floor = self.spec.controls.noise_floor
        if floor and scenario.dataset.size <= self.spec.batch_size:
            self.notices.append(
                f"{scenario.dataset.name}: all instances fit into one batch, so its noise floor "
                "shows no other company; choose a smaller `batch_size` or more instances"
            )
        condition = _condition(model, BASELINE, Role.BASELINE, scenario)
        condition = replace(condition, circumstance=circumstance)
        key = self._cell(condition, model, request, (), scenario)
        if floor:
            self._repeats(condition, key, floor.repeats, model, request, (), scenario)
        return key

    def _repeats(
        self,
        condition: Condition,
        key: str,
        repeats: int,
        model: _Model,
        request: LoadRequest,
        members: tuple[Member, ...],
        scenario: _Scenario,
    ) -> None:
        """Add a cell's noise floor: the same in other batch compositions."""
        for repeat in range(1, repeats + 1):
            other = replace(condition, role=Role.FLOOR, repeat=repeat)
            again = self._cell(other, model, request, members, scenario)
            if again == key:
                # So few instances that this composition is no other one.
                del self.named[other]
            else:
                self.base_of[again] = key

    def _compared(self, model: _Model, stack: _Stack, scenarios: Sequence[_Scenario]) -> None:
        request = reduce(lambda r, m: m[1].on_load(r), stack.members, model.request)
        if reason := self._refusal(model, stack):
            for scenario in scenarios:
                self._unsupported(model, stack.name, stack.role, scenario, reason)
            return
        loaded = model
        if (request.source, request.revision) != (model.request.source, model.request.revision):
            loaded = replace(model, info=model.model.describe(request))
        members = self._members(loaded, request, stack)
        base = model.request
        if self.spec.compare == "matched":
            base = _shared_circumstances(model.request, request, stack)
        for scenario in scenarios:
            condition = _condition(model, stack.name, stack.role, scenario)
            key = self._cell(condition, loaded, request, members, scenario)
            self.base_of[key] = self._baseline(model, base, scenario)
            floor = self.spec.controls.noise_floor
            if floor and floor.stacks and stack.role is Role.STACK:
                self._repeats(condition, key, floor.repeats, loaded, request, members, scenario)
            if not self.spec.controls.baseline_likelihood:
                continue
            if loaded.info.can_score:
                condition = replace(condition, role=Role.LIKELIHOOD)
                self._cell(condition, loaded, request, members, scenario, self.base_of[key])
            else:
                reason = f"{model.name} cannot score given answers"
                self._unsupported(model, stack.name, Role.LIKELIHOOD, scenario, reason)

    def _unsupported(
        self, model: _Model, stack: str, role: Role, scenario: _Scenario, reason: str
    ) -> None:
        self.unsupported.append(Unsupported(_condition(model, stack, role, scenario), reason))

    def _mute(self, model: _Model) -> str:
        """Why a model cannot answer in the mode asked for, or nothing."""
        if self.spec.generation.mode == "generate" or model.info.can_score:
            return ""
        return (
            f"{model.name} cannot score given answers, which `generation: {{mode: likelihood}}` "
            "needs; use `mode: generate`"
        )

    def _refusal(self, model: _Model, stack: _Stack) -> str:
        """Why a stack cannot work on a model, or nothing."""
        if mute := self._mute(model):
            return mute
        for kind, member in stack.members:
            with blaming(self._origin(kind), "supports()"):
                reason = member.supports(model.info, model.request)
            if reason:
                return f"{kind}: {reason}"
        return ""

    def _cell(
        self,
        condition: Condition,
        model: _Model,
        request: LoadRequest,
        members: tuple[Member, ...],
        scenario: _Scenario,
        parent: str = "",
    ) -> str:
        generation = self.spec.generation
        options = reduce(
            lambda o, m: m.component.on_generate(o),
            members,
            GenerationOptions(generation.max_new_tokens, generation.top_tokens),
        )
        # What scores the answers of a baseline is held against nothing.
        recorders = () if parent else self._recorders(model)
        rows = scenario.dataset.rows
        batches = batch_plan(rows, self.spec.batch_size, condition.repeat)
        load = self._load_fields(model, request)
        cell_fields = {
            **load,
            "stack": [member.fields for member in members],
            "benchmark": {
                "type": scenario.dataset.type,
                "behaviour": scenario.dataset.benchmark.behaviour_version,
                "inputs": scenario.dataset.inputs,
            },
            "perturbation": [component_fields(*item) for item in scenario.perturbations],
            "seed": scenario.seed if scenario.perturbations else None,
            "generation": {"mode": generation.mode, **asdict(options)},
            "parent": parent,
            # An outline has no instances to tell one composition from another.
            "batches": digest(batches if rows else condition.repeat),
        }
        if recorders:
            # Answers without it would do for no metric that asks for it, though they are the same.
            cell_fields["recorded"] = [recorder.fields for recorder in recorders]
        cell = Cell(
            condition=condition,
            key=digest(cell_fields),
            fields=cell_fields,
            dataset=scenario.dataset,
            perturbations=scenario.perturbations,
            seed=scenario.seed,
            members=members,
            options=options,
            batches=batches,
            mode=generation.mode,
            parent=parent,
            recorders=recorders,
        )
        changed = [member.fields for member in members if member.transforms]
        session = digest([load, changed])
        names = "+".join(member.type for member in members if member.transforms)
        self.loads.setdefault(session, (model, request, f"{model.name} {names}".strip()))
        cells = self.sessions.setdefault(session, [])
        if all(known.key != cell.key for known in cells):
            cells.append(cell)
        self.named[condition] = cell.key
        return cell.key

    def _session(self, key: str, cells: list[Cell]) -> Session:
        model, request, name = self.loads[key]
        circumstance = _circumstance(model.request, request)
        return Session(
            key=key,
            label=f"{name} {circumstance}".strip(),
            model=model.model,
            info=model.info,
            request=request,
            cells=tuple(sorted(cells, key=lambda c: digest([m.fields for m in c.members]))),
        )

    # Calibration

    def _calibrations(
        self, evaluated: Sequence[Dataset]
    ) -> tuple[tuple[Dataset, tuple[str, ...]], ...]:
        wanted = self.spec.calibration
        if wanted is None:
            return ()
        config = wanted.benchmark
        component = _as(Benchmark, components(self.registry, Kind.BENCHMARK, config))
        benchmark = type(component)(component.config.model_copy(update={"split": wanted.split}))
        dataset = self._open(f"{label(config)} {wanted.split}", config.type, benchmark)
        draws = []
        for seed in range(wanted.seed, wanted.seed + wanted.replicates):
            rows = sorted(dataset.rows, key=lambda row: row.id)
            random.Random(f"calibration {seed}").shuffle(rows)
            chosen = rows[: wanted.limit]
            refuse_leak(chosen, evaluated)
            draws.append((dataset, tuple(row.id for row in chosen)))
        return tuple(draws)

    def _load_fields(self, model: _Model, request: LoadRequest) -> dict[str, Any]:
        """What of a loaded model decides its answers; where its files lie does not."""
        return {
            "model": _model_fields(model, request),
            "load": {k: v for k, v in asdict(request).items() if k not in ("source", "revision")},
            "environment": self.environment(request.device),
        }

    def _members(self, model: _Model, request: LoadRequest, stack: _Stack) -> tuple[Member, ...]:
        members: tuple[Member, ...] = ()
        for kind, component in stack.members:
            member = Member(kind, component, self._origin(kind))
            if component.needs_fit:
                artefact = self._at_hand(model, kind, component)
                if artefact is None:
                    member = self._fitted(model, request, stack, member)
                else:
                    recipe = digest(["at hand", artefact.digest])
                    found = self.store.put_artefact(recipe, artefact.data)
                    member = replace(member, recipe=recipe, artefact=found)
            members = (*members, member)
        return members

    def _at_hand(self, model: _Model, kind: str, component: Accelerator[Any]) -> Artefact | None:
        with blaming(self._origin(kind), "at_hand()"):
            return component.at_hand(model.info)

    def _origin(self, kind: str, of: Kind = Kind.ACCELERATOR) -> str:
        plugin = self.registry.find(of, kind)
        return f"{kind} ({plugin.distribution} {plugin.version})"

    def _fitted(self, model: _Model, request: LoadRequest, stack: _Stack, member: Member) -> Member:
        if not self.calibrations:
            raise SpecError(
                f"stack '{stack.name}': {member.type} has to be fitted to data; add to the spec\n"
                "    calibration: {benchmark: NAME, split: train, limit: 64, seed: 0}"
            )
        dataset, ids = self.calibrations[stack.draw]
        rows = {row.id: row for row in dataset.rows}
        recipe = digest(
            [
                self._load_fields(model, request),
                member.type,
                dict(member.component.fitted_by()),
                member.component.behaviour_version,
                [[i, rows[i].prompt, rows[i].references] for i in ids],
            ]
        )
        artefact = self.store.artefact_digest(recipe) or _UNFITTED
        member = replace(member, recipe=recipe, artefact=artefact)
        if artefact == _UNFITTED:
            which = f", choice {stack.draw + 1} of the data" if stack.draw else ""
            self.fits[recipe] = Fit(
                recipe=recipe,
                label=f"{member.type} for {model.name}{which}",
                model=model.model,
                request=request,
                member=member,
                dataset=dataset,
                instance_ids=ids,
            )
        return member


def _condition(model: _Model, stack: str, role: Role, scenario: _Scenario) -> Condition:
    return Condition(
        model=model.name,
        stack=stack,
        benchmark=scenario.dataset.name,
        perturbation=scenario.perturbation,
        seed=scenario.seed,
        role=role,
    )


def _model_fields(model: _Model, request: LoadRequest) -> dict[str, Any]:
    identity = dict(model.info.weights) or {"source": request.source, "revision": request.revision}
    return {"family": model.info.family, "files": identity, "processor": model.info.processor}


def _circumstance(plain: LoadRequest, request: LoadRequest) -> str:
    return ", ".join(
        str(getattr(request, field.name))
        for field in fields(LoadRequest)
        if getattr(request, field.name) != getattr(plain, field.name)
    )


def _shared_circumstances(plain: LoadRequest, request: LoadRequest, stack: _Stack) -> LoadRequest:
    """The request of a baseline that differs from the stack in nothing but the acceleration."""
    essential = {"source", "revision", "options"}.union(*(m.alters for _, m in stack.members))
    shared = {
        field.name: getattr(request, field.name)
        for field in fields(LoadRequest)
        if field.name not in essential
    }
    return replace(plain, **shared)


def _refuse_free_answers(dataset: Dataset) -> None:
    free = [row for row in dataset.rows if not row.options]
    if free:
        kinds = sorted({row.slices.get("kind", row.kind) for row in free})
        able = sorted({row.slices.get("kind", row.kind) for row in dataset.rows if row.options})
        raise SpecError(
            f"generation: mode: likelihood chooses among options, but {len(free)} of "
            f"{len(dataset.rows)} questions of benchmark '{dataset.name}' have none (kinds: "
            f"{', '.join(kinds)}; first: {free[0].question[:60]!r}); "
            + (f"ask only {', '.join(able)}, or " if able else "")
            + "use `mode: generate`"
        )


def _refuse_shared_slots(stack: _Stack) -> None:
    owner: dict[str, str] = {}
    for kind, member in stack.members:
        for slot in sorted(member.occupies):
            if slot in owner:
                raise SpecError(
                    f"stack '{stack.name}': {owner[slot]} and {kind} both change the {slot} of the "
                    "model, so neither could be told from the other; use one of them"
                )
            owner[slot] = kind


def _as(cls: type[Any], component: Any) -> Any:
    if not isinstance(component, cls):
        raise PluginError(f"{type(component).__qualname__} is not a {cls.__name__}")
    return component
