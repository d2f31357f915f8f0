"""Spec to graph: which steps there are, what each needs, and how its inputs follow from others' outputs.

Pure: nothing is read or made here. A step's inputs are a function of the outputs of the steps that it needs, so
its fingerprint is known as soon as they exist. Builders stand in the order of the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.specs import LoadedSpec
from schemas.artifacts import WeightsRef
from schemas.base import Document, Part
from schemas.domains import BudgetInputs, DomainInputs, SplitInputs
from schemas.errors import SpecError
from schemas.evaluation import Candidate, CostCandidate, CostInputs, EvaluationInputs, ReportInputs, Section
from schemas.labels import LabelsInputs
from schemas.spec import Student, Training
from schemas.students import Arm, CohortInputs, Stream, StudentInputs
from schemas.teachers import AdaptTeacher, GivenTeacher, LabelledDomain, TeacherInputs, TrainTeacher

Outputs = Mapping[str, Any]
"""Outputs of finished steps, by the name of the step."""
NO_TRUTH = "impossible at a label budget of 0"
DEFAULT_EPOCHS = 10


@dataclass(frozen=True)
class Step:
    """One run of one stage."""

    name: str
    """`STAGE.NAME`, as people steer it."""
    stage: str
    needs: tuple[str, ...]
    """Steps whose outputs its inputs are made from."""
    inputs: Callable[[Outputs], Document]
    """Its inputs, once all that it needs exists. Raises SpecError where parts do not fit."""
    after: tuple[str, ...] = ()
    """Steps that must be done before it starts, though it does not read them."""


@dataclass
class Graph:
    """All steps, each after those that it needs."""

    steps: dict[str, Step] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What people must know about how the spec was understood."""

    def add(
        self,
        name: str,
        needs: tuple[str, ...],
        inputs: Callable[[Outputs], Document],
        after: tuple[str, ...] = (),
    ) -> str:
        """Add a step and return its name."""
        needs = tuple(dict.fromkeys(needs))
        self.steps[name] = Step(name, name.split(".")[0], needs, inputs, after)
        return name

    def downstream(self, names: set[str]) -> set[str]:
        """The steps and all that rest on them."""
        found = set(names)
        for step in self.steps.values():
            if found & set(step.needs):
                found.add(step.name)
        return found


def build_graph(loaded: LoadedSpec, source_digests: Mapping[str, str], weights: Mapping[str, WeightsRef]) -> Graph:
    """The graph of a checked spec (`pipeline.checks`), in which every name refers to something.

    `source_digests` by domain and `weights` by place come from `pipeline.checks.read_givens`.
    """
    return _Builder(loaded, source_digests, weights).build()


class _Builder:
    def __init__(
        self, loaded: LoadedSpec, source_digests: Mapping[str, str], weights: Mapping[str, WeightsRef]
    ) -> None:
        from pipeline.parts import normal_parts

        self.spec = loaded.spec
        self.normal = normal_parts(loaded.spec)
        self.task = self.normal.task
        self.source_digests, self.weights = source_digests, weights
        self.graph = Graph()

    def build(self) -> Graph:
        for name in self.spec.domains:
            self._domain(name)
        self.data_steps = tuple(self.graph.steps)
        for name in self._teachers_in_order():
            self._teacher(name)
        for name in self.spec.labels:
            self._labels(name)
        self._students()
        self._evaluations()
        self._costs()
        self._report()
        return self.graph

    # --- domains ---------------------------------------------------------------------------------------------

    def _domain(self, name: str) -> None:
        domain = self.spec.domains[name]
        samples = self.graph.add(
            f"domains.{name}",
            (),
            lambda done: DomainInputs(
                source=domain.from_,
                source_digest=self.source_digests.get(name),
                task=self.task,
                columns=domain.columns,
                classes=domain.classes,
                prepare=self.normal.prepare[name],
                on_bad_row=domain.on_bad_row,
                shard_rows=domain.shard_rows,
            ),
        )
        split = self.graph.add(
            f"splits.{name}",
            (samples,),
            lambda done: SplitInputs(samples=done[samples].samples, split=domain.split),
        )
        seeds = self._draws(name)
        for seed in seeds:
            self.graph.add(
                self._budget(name, seed),
                (samples, split),
                lambda done, seed=seed: BudgetInputs(  # type: ignore[misc]
                    samples=done[samples].samples,
                    split=done[split].split,
                    truth=done[samples].truth,
                    label_budget=domain.label_budget,
                    seed=seed,
                ),
            )

    def _draws(self, domain: str) -> list[int]:
        """Seeds whose budget of this domain is drawn: those of its students and of teachers trained on it."""
        if self.spec.domains[domain].label_budget is None:
            return [0]
        seeds = {
            seed
            for student in self.spec.students.values()
            if self._target(student) == domain
            for seed in student.seed_list
        }
        seeds |= {teacher.seed for teacher in self.spec.teachers.values() if domain in teacher.domains}
        return sorted(seeds) or [0]

    def _budget(self, domain: str, seed: int) -> str:
        return f"budgets.{domain}" if self.spec.domains[domain].label_budget is None else f"budgets.{domain}.seed{seed}"

    def _target(self, student: Student) -> str:
        return self.spec.labels[student.labels].domain if student.labels is not None else str(student.domain)

    def _classes(self, done: Outputs, domain: str) -> tuple[str, ...] | None:
        classes: tuple[str, ...] | None = done[f"domains.{domain}"].classes
        return classes

    def _labelled(self, done: Outputs, domain: str, seed: int) -> LabelledDomain:
        return LabelledDomain(
            samples=done[f"domains.{domain}"].samples,
            split=done[f"splits.{domain}"].split,
            budget=done[self._budget(domain, seed)].budget,
        )

    def _domain_steps(self, domain: str, *seeds: int) -> tuple[str, ...]:
        return (f"domains.{domain}", f"splits.{domain}", *(self._budget(domain, seed) for seed in seeds))

    # --- teachers --------------------------------------------------------------------------------------------

    def _teachers_in_order(self) -> list[str]:
        order: list[str] = []
        todo = list(self.spec.teachers)
        while todo:
            ready = [name for name in todo if self.spec.teachers[name].from_ in (None, *order)]
            if not ready:
                raise SpecError(f"teachers {', '.join(todo)} are made from each other in a circle")
            order += ready
            todo = [name for name in todo if name not in order]
        return order

    def _root(self, name: str) -> str:
        """The teacher at the beginning of a chain of `from`."""
        while (parent := self.spec.teachers[name].from_) is not None:
            name = parent
        return name

    def _targets_of(self, teacher: str) -> list[str]:
        """Domains that a teacher, or one made from it, labels."""
        return list(
            dict.fromkeys(
                labels.domain
                for labels in self.spec.labels.values()
                if self._root(labels.teacher) == self._root(teacher)
            )
        )

    def _teacher(self, name: str) -> None:
        teacher = self.spec.teachers[name]
        if teacher.from_ is not None and teacher.adapt is not None:
            parent, adapt = f"teachers.{teacher.from_}", teacher.adapt
            target = adapt.domain
            self.graph.add(
                f"teachers.{name}",
                (parent, f"domains.{target}", f"splits.{target}"),
                lambda done: TeacherInputs(
                    task=self.task,
                    way=AdaptTeacher(
                        method=adapt.method,
                        teacher=done[parent].model,
                        samples=done[f"domains.{target}"].samples,
                        split=done[f"splits.{target}"].split,
                    ),
                ),
            )
            return
        targets = self._targets_of(name)
        needs = [step for domain in teacher.domains for step in self._domain_steps(domain, teacher.seed)]
        needs += [f"domains.{target}" for target in targets]

        def inputs(done: Outputs) -> TeacherInputs:
            own, classes = self._teacher_classes(done, name, targets)
            way: TrainTeacher | GivenTeacher
            if teacher.domains:
                way = TrainTeacher(
                    domains=tuple(self._labelled(done, domain, teacher.seed) for domain in teacher.domains),
                    training=self.normal.teacher_training[name],
                    seed=teacher.seed,
                )
            else:
                way = GivenTeacher(weights=self.weights[teacher.weights] if teacher.weights else None)
            return TeacherInputs(
                task=self.task,
                model=teacher.model,
                classes=classes,
                own_classes=own if teacher.class_map else None,
                class_map=teacher.class_map,
                preprocessing=self.normal.teacher_preprocessing[name],
                way=way,
            )

        self.graph.add(f"teachers.{name}", tuple(needs), inputs, after=self.data_steps)

    def _teacher_classes(self, done: Outputs, name: str, targets: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(classes of the raw outputs, classes spoken of) of a teacher. Raises SpecError where sets do not match."""
        teacher = self.spec.teachers[name]
        wanted = [(target, classes) for target in targets if (classes := self._classes(done, target)) is not None]
        own = teacher.classes
        for domain in teacher.domains:
            classes = self._classes(done, domain)
            if classes is None:
                raise SpecError(f"teachers.{name} is to be trained on '{domain}', which has no labels")
            if own is not None and classes != own:
                raise SpecError(_mismatch(f"teachers.{name}", own, f"domain '{domain}'", classes))
            own = classes
        if own is None and wanted:
            own = wanted[0][1]
        if own is None:
            raise SpecError(f"teachers.{name}: nothing says which classes it speaks of: give `classes`")
        if not teacher.class_map:
            for target, classes in wanted:
                if classes != own:
                    raise SpecError(_mismatch(f"teachers.{name}", own, f"domain '{target}'", classes))
            return own, own
        unknown = sorted(set(teacher.class_map) - set(own))
        if unknown:
            raise SpecError(f"teachers.{name}.class_map names {', '.join(unknown)}, which are no classes of it")
        mapped = wanted[0][1] if wanted else tuple(sorted(set(teacher.class_map.values())))
        for target, classes in wanted:
            foreign = sorted(set(teacher.class_map.values()) - set(classes))
            if foreign:
                raise SpecError(
                    f"teachers.{name}.class_map leads to {', '.join(foreign)}, which are no classes of '{target}'"
                )
            empty = [item for item in classes if item not in teacher.class_map.values()]
            if empty:
                raise SpecError(f"teachers.{name}.class_map leads nothing to {', '.join(empty)} of domain '{target}'")
            if classes != mapped:
                raise SpecError(_mismatch(f"domain '{wanted[0][0]}'", mapped, f"domain '{target}'", classes))
        return own, mapped

    # --- labels ----------------------------------------------------------------------------------------------

    def _labels(self, name: str) -> None:
        labels = self.spec.labels[name]
        teacher, samples = f"teachers.{labels.teacher}", f"domains.{labels.domain}"
        self.graph.add(
            f"labels.{name}",
            (teacher, samples),
            lambda done: LabelsInputs(
                task=self.task,
                teacher=done[teacher].model,
                samples=done[samples].samples,
                encoding=labels.encoding,
                precision=labels.precision,
                batch_size=labels.batch_size,
                view=labels.view,
                store=self.spec.store,
            ),
        )

    # --- students --------------------------------------------------------------------------------------------

    def _students(self) -> None:
        """One step per cohort: students that share domain, preprocessing, augmentation and batch sizes."""
        cohorts: dict[str, list[str]] = {}
        for name, student in self.spec.students.items():
            key = repr((self._target(student), self._source(student), self._stream_settings(name)))
            cohorts.setdefault(key, []).append(name)
        self.cohort_of: dict[str, str] = {}
        for members in cohorts.values():
            label = members[0] if len(members) == 1 else f"{members[0]}+{len(members) - 1}"
            source = self._source(self.spec.students[members[0]])
            if source is not None and self._source_arms(members[0]):
                self._cohort(f"students.{label}.source", source, members, ("source-only",))
            self._cohort(
                f"students.{label}",
                self._target(self.spec.students[members[0]]),
                members,
                ("distilled", "no-teacher", "source-finetuned"),
            )
            for member in members:
                self.cohort_of[member] = f"students.{label}"

    def _stream_settings(self, name: str) -> dict[str, Any]:
        training = self.normal.student_training[name]
        return {
            "batch_size": training.batch_size,
            "labelled_batch_size": training.labelled_batch_size or training.batch_size,
            "augmentation": training.augmentation,
            "preprocessing": self.normal.student_preprocessing[name],
        }

    def _source(self, student: Student) -> str | None:
        """The domain that the student's teacher was trained on; None where it is not known."""
        if student.labels is None:
            return None
        domains = self.spec.teachers[self._root(self.spec.labels[student.labels].teacher)].domains
        return domains[0] if domains and domains[0] != self._target(student) else None

    def _source_arms(self, name: str) -> bool:
        return any(arm.startswith("source") for arm in self._arms(name))

    def _arms(self, name: str) -> list[Arm]:
        """The arms of a student's comparison that its spec makes possible."""
        student = self.spec.students[name]
        budget = self.spec.domains[self._target(student)].label_budget
        arms: list[Arm] = ["distilled"]
        for baseline in self.spec.evaluation.baselines:
            if baseline == "no-teacher" and (student.labels is None or (budget is not None and budget.train == 0)):
                continue
            if baseline.startswith("source") and self._source(student) is None:
                continue
            if baseline == "source-finetuned" and budget is not None and budget.train == 0:
                continue
            arms.append(baseline)
        return arms

    def _cohort(self, step: str, domain: str, members: list[str], arms: tuple[Arm, ...]) -> None:
        spec = self.spec
        seeds = sorted({seed for name in members for seed in spec.students[name].seed_list})
        budget_seeds = seeds if spec.domains[domain].label_budget is not None else [0]
        target = self._target(spec.students[members[0]])
        needs = [*self._domain_steps(domain, *budget_seeds), *self._domain_steps(target)]
        needs += [
            f"labels.{spec.students[name].labels}"
            for name in members
            if spec.students[name].labels and "distilled" in arms
        ]
        source_step = f"{step}.source"
        if "source-finetuned" in arms and any("source-finetuned" in self._arms(name) for name in members):
            needs.append(source_step)

        def inputs(done: Outputs) -> CohortInputs:
            classes = self._student_classes(done, members)
            train_rows = done[f"splits.{target}"].train
            starts = {(out.name, out.seed): out for out in (done[source_step].students if source_step in done else ())}
            students = [
                self._member(done, name, arm, seed, domain, train_rows, starts)
                for name in members
                for arm in arms
                if arm in self._needed_arms(name)
                for seed in spec.students[name].seed_list
                if not (arm == "source-finetuned" and starts[name, seed].model is None)
            ]
            settings = self._stream_settings(members[0])
            return CohortInputs(
                task=self.task,
                classes=classes,
                stream=Stream(
                    samples=done[f"domains.{domain}"].samples, split=done[f"splits.{domain}"].split, **settings
                ),
                students=tuple(students),
            )

        self.graph.add(step, tuple(needs), inputs, after=self.data_steps)

    def _needed_arms(self, name: str) -> list[Arm]:
        """Arms to train: fine-tuning starts from the source-only student, whether or not that one is shown."""
        arms = self._arms(name)
        return [*arms, "source-only"] if "source-finetuned" in arms and "source-only" not in arms else arms

    def _member(
        self, done: Outputs, name: str, arm: Arm, seed: int, domain: str, train_rows: int, starts: Mapping[Any, Any]
    ) -> StudentInputs:
        student = self.spec.students[name]
        distils = arm == "distilled" and student.labels is not None
        training = self.normal.student_training[name]
        start: Any = self.weights[student.weights] if student.weights else None
        if arm == "source-finetuned":
            start = starts[name, seed].model
        return StudentInputs(
            name=name,
            arm=arm,
            model=student.model,
            method=self.normal.method[name] if arm == "distilled" else Part(name="none"),
            training=training,
            steps=steps_of(training, train_rows),
            seed=seed,
            labels=done[f"labels.{student.labels}"].labels if distils else None,
            budget=done[self._budget(domain, seed)].budget,
            start=start,
        )

    def _student_classes(self, done: Outputs, members: list[str]) -> tuple[str, ...]:
        for name in members:
            student = self.spec.students[name]
            classes = self._classes(done, self._target(student))
            if classes is None and student.labels is not None:
                root = f"teachers.{self.spec.labels[student.labels].teacher}"
                classes = done[root].classes if root in done else self._declared(student.labels)
            if classes is not None:
                return classes
        raise SpecError(f"students.{members[0]}: nothing says which classes there are: give `classes` to its domain")

    def _declared(self, labels: str) -> tuple[str, ...] | None:
        return self.spec.teachers[self._root(self.spec.labels[labels].teacher)].classes

    # --- evaluation ------------------------------------------------------------------------------------------

    def _evaluations(self) -> None:
        self.evaluations: list[str] = []
        for name, teacher in self.spec.teachers.items():
            for domain in teacher.domains:
                self._evaluate_teacher(name, domain)
            labelled = {item.domain for item in self.spec.labels.values() if item.teacher == name}
            for target in self._targets_of(name):
                if target not in teacher.domains and target not in labelled:
                    self._evaluate_teacher(name, target)
        for name in self.spec.students:
            self._evaluate_student(name)

    def _evaluate_teacher(self, name: str, domain: str) -> None:
        seed = self._draws(domain)[0]
        teacher, budget = f"teachers.{name}", self._budget(domain, seed)
        needs = (teacher, *self._domain_steps(domain, seed))
        self.evaluations.append(
            self.graph.add(
                f"evaluation.{name}.{domain}",
                needs,
                lambda done: self._evaluation(
                    done,
                    name,
                    domain,
                    (Candidate(arm="teacher", seed=seed, model=done[teacher].model, budget=done[budget].budget),),
                    None,
                ),
            )
        )

    def _evaluate_student(self, name: str) -> None:
        student = self.spec.students[name]
        target = self._target(student)
        cohort, source = self.cohort_of[name], f"{self.cohort_of[name]}.source"
        seeds = student.seed_list
        labels = f"labels.{student.labels}" if student.labels is not None else None
        needs = [
            cohort,
            *self._domain_steps(target, *(self._draws(target) if self.spec.domains[target].label_budget else [0])),
        ]
        needs += [source] if source in self.graph.steps else []
        needs += [labels] if labels else []

        def inputs(done: Outputs) -> EvaluationInputs:
            results = {
                (out.name, out.arm, out.seed): out
                for step in (source, cohort)
                if step in done
                for out in done[step].students
            }
            candidates: list[Candidate] = []
            if labels:
                first = done[self._budget(target, seeds[0])].budget
                candidates.append(Candidate(arm="teacher", seed=seeds[0], labels=done[labels].labels, budget=first))
            possible = self._arms(name)
            shown: tuple[Arm, ...] = ("distilled", *self.spec.evaluation.baselines)
            for arm in shown:
                if arm.startswith("source") and self._source(student) is None:
                    continue
                for seed in seeds:
                    found = results.get((name, arm, seed))
                    failure = NO_TRUTH if arm not in possible else "its start from the source failed"
                    candidates.append(
                        Candidate(
                            arm=arm,
                            seed=seed,
                            model=found.model if found else None,
                            failure=found.failure if found else failure,
                            budget=done[self._budget(target, seed)].budget,
                        )
                    )
            return self._evaluation(done, name, target, tuple(candidates), done[labels].labels if labels else None)

        self.evaluations.append(self.graph.add(f"evaluation.{name}", tuple(needs), inputs))

    def _evaluation(
        self, done: Outputs, subject: str, domain: str, candidates: tuple[Candidate, ...], reference: Any
    ) -> EvaluationInputs:
        return EvaluationInputs(
            subject=subject,
            domain=domain,
            task=self.task,
            candidates=candidates,
            samples=done[f"domains.{domain}"].samples,
            split=done[f"splits.{domain}"].split,
            truth=done[f"domains.{domain}"].truth,
            reference=reference,
            settings=self.spec.evaluation,
        )

    # --- costs and report ------------------------------------------------------------------------------------

    def _costs(self) -> None:
        if not self.spec.evaluation.cost or not self.spec.students:
            return
        first = next(iter(self.spec.students.values()))
        samples = f"domains.{self._target(first)}"
        teachers = list(
            dict.fromkeys(self.spec.labels[s.labels].teacher for s in self.spec.students.values() if s.labels)
        )
        needs = [samples, *(f"teachers.{name}" for name in teachers), *dict.fromkeys(self.cohort_of.values())]

        def inputs(done: Outputs) -> CostInputs:
            from stages.evaluation.costs import host_description

            candidates = [
                CostCandidate(
                    name=name,
                    model=done[f"teachers.{name}"].model,
                    architecture=self._architecture(
                        self.spec.teachers[self._root(name)].model,
                        done[f"teachers.{name}"].classes,
                        self.normal.teacher_preprocessing[self._root(name)],
                    ),
                )
                for name in teachers
            ]
            for name, student in self.spec.students.items():
                made = [
                    out
                    for out in done[self.cohort_of[name]].students
                    if out.name == name and out.arm == "distilled" and out.model
                ]
                if made:
                    classes = self._student_classes(done, [name])
                    shape = self._architecture(student.model, classes, self.normal.student_preprocessing[name])
                    candidates.append(CostCandidate(name=name, model=made[0].model, architecture=shape))
            return CostInputs(candidates=tuple(candidates), samples=done[samples].samples, host=host_description())

        self.graph.add("costs", tuple(needs), inputs)

    def _architecture(
        self, model: Part | None, classes: tuple[str, ...], preprocessing: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "task": self.task.dump(),
            "model": model.dump() if model else None,
            "outputs": len(classes),
            "preprocessing": preprocessing,
        }

    def _report(self) -> None:
        labels = {name: f"labels.{name}" for name in self.spec.labels}
        costs = ("costs",) if "costs" in self.graph.steps else ()
        self.graph.add(
            "report",
            (*labels.values(), *self.evaluations, *costs),
            lambda done: ReportInputs(
                name=self.spec.name,
                budgets={
                    name: str(domain.label_budget) for name, domain in self.spec.domains.items() if domain.label_budget
                },
                labels=tuple(
                    Section(
                        name=name,
                        teacher=self.spec.labels[name].teacher,
                        domain=self.spec.labels[name].domain,
                        rows=done[step].rows,
                        digest=done[step].labels.digest,
                    )
                    for name, step in labels.items()
                ),
                qualities=tuple(done[step].quality for step in self.evaluations),
                costs=done["costs"].cost if costs else None,
                notes=tuple(self.graph.notes),
            ),
        )


def steps_of(training: Training, rows: int) -> int:
    """Optimiser steps of a training over `rows` rows: as given, or epochs of whole batches."""
    if training.steps is not None:
        return training.steps
    return max(1, (training.epochs or DEFAULT_EPOCHS) * math.ceil(rows / training.batch_size))


def _mismatch(one: str, ours: tuple[str, ...], other: str, theirs: tuple[str, ...]) -> str:
    if sorted(ours) == sorted(theirs):
        return f"{one} and {other} have the same classes in another order: list `classes` of both domains alike"
    only_one, only_other = [c for c in ours if c not in theirs], [c for c in theirs if c not in ours]

    def shown(names: list[str]) -> str:
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"

    return (
        f"the classes of {one} and {other} do not match (only the first: {shown(only_one)}; only the second: "
        f"{shown(only_other)}): name them alike, or give the teacher a `class_map`"
    )
