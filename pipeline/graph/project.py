"""A checked spec with the questions that the graph asks of it: who learns from whom, on what, against what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.graph.steps import Cohort
from pipeline.lock import Given
from pipeline.parts import NormalParts
from schemas.artifacts import WeightsRef
from schemas.base import Part
from schemas.errors import SpecError
from schemas.labels import Views
from schemas.spec import Baseline, Point, Spec, Student
from schemas.students import Arm

ALONE = ("alone", False)
"""Ways to say that a student trains by itself."""


@dataclass(frozen=True)
class Project:
    """A spec, its normal settings, and what the user brings."""

    spec: Spec
    normal: NormalParts
    source_digests: Mapping[str, str]
    """Digest of each domain's source."""
    weights: Mapping[str, WeightsRef]
    """Given weights by their place."""
    given: Mapping[str, Given] = field(default_factory=dict)
    """Label sets of other stores, by their name in the spec."""

    @property
    def task(self) -> Part:
        """The task, every setting written out."""
        return self.normal.task

    # --- domains ---------------------------------------------------------------------------------------------

    def has_budget(self, domain: str) -> bool:
        """Whether some truth of a domain is hidden."""
        return self.spec.domains[domain].label_budget is not None

    def draws(self, domain: str) -> list[int]:
        """Seeds whose budget of a domain is drawn: those of its students and of teachers trained on it."""
        budget = self.spec.domains[domain].label_budget
        if budget is None:
            return [0]
        if budget.seed is not None:
            return [budget.seed]
        students, teachers = self.spec.students.values(), self.spec.teachers.values()
        seeds = {seed for student in students if self.target(student) == domain for seed in student.seeds}
        seeds |= {teacher.seed for teacher in teachers if domain in teacher.domains}
        seeds |= {seed for student in students if self.source(student) == domain for seed in student.seeds}
        return sorted(seeds) or [0]

    def budget(self, domain: str, seed: int) -> str:
        """The step that draws a domain's budget for a seed."""
        budget = self.spec.domains[domain].label_budget
        if budget is None:
            return f"budgets.{domain}"
        return f"budgets.{domain}.seed{seed if budget.seed is None else budget.seed}"

    def data(self, domain: str, *seeds: int) -> tuple[str, ...]:
        """The steps that make a domain, its splits, and its budgets for these seeds."""
        budgets = dict.fromkeys(self.budget(domain, seed) for seed in seeds)
        return (f"domains.{domain}", f"splits.{domain}", *budgets)

    # --- teachers --------------------------------------------------------------------------------------------

    def root(self, teacher: str) -> str:
        """The teacher that another goes back to: over `from`, and over the labels that a student learned from."""
        passed: set[str] = set()
        while teacher not in passed:
            passed.add(teacher)
            found = self.spec.teachers[teacher]
            before = found.from_ or (self._taught(found.student)[0] if found.student else None)
            teacher = before or teacher
        return teacher

    def made_like(self, teacher: str) -> tuple[Part | None, dict[str, Any]]:
        """(model, preprocessing) of a teacher: those of the teacher or student that it was made from."""
        found = self.spec.teachers[teacher]
        if found.student is not None:
            return self.spec.students[found.student].model, self.normal.student_preprocessing[found.student]
        if found.from_ is not None:
            return self.made_like(found.from_)
        return found.model, self.normal.teacher_preprocessing[teacher]

    def _taught(self, student: str) -> list[str | None]:
        """Teachers that a student learned from, or started from."""
        found = self.spec.students[student]
        if found.labels is not None:
            return self.said_by(found.labels)
        return [found.start]

    def teachers_of(self, student: str) -> set[str]:
        """Teachers of the spec whose labels or weights a student has."""
        start = self.spec.students[student].start
        return {who for who in (*self._taught(student), start) if who is not None}

    def parents(self, teacher: str) -> set[str]:
        """Teachers that a teacher is made from, at first hand: over a student, those whose labels or weights it had."""
        found = self.spec.teachers[teacher]
        if found.student is None:
            return {found.from_} if found.from_ else set()
        return self.teachers_of(found.student)

    def _rests_on(self, teacher: str, wanted: str) -> bool:
        return teacher == wanted or any(self._rests_on(parent, wanted) for parent in self.parents(teacher))

    def in_order(self) -> list[tuple[str, str]]:
        """(`teachers`, `labels` or `students`, name) of all of them, each after those that it is made from.

        Raises SpecError for those that are made from each other in a circle.
        """
        spec, order = self.spec, dict[tuple[str, str], None]()

        def before(kind: str, name: str) -> list[tuple[str, str]]:
            if kind == "teachers":
                teacher = spec.teachers[name]
                return [("teachers", teacher.from_ or ""), ("students", teacher.student or "")]
            if kind == "labels":
                labels = spec.labels[name]
                return [("teachers", labels.teacher or ""), *(("labels", parent) for parent in labels.fuse)]
            student = spec.students[name]
            made_of = student.soup.of if student.soup is not None else ()
            return [
                ("labels", student.labels or ""),
                ("teachers", student.start or ""),
                *(("students", one) for one in made_of),
            ]

        parts = (("teachers", spec.teachers), ("labels", spec.labels), ("students", spec.students))
        todo = [(kind, name) for kind, named in parts for name in named]
        while todo:
            begun = len(order)
            for kind in ("teachers", "labels", "students"):
                again = True
                while again:
                    ready = [one for one in todo if one[0] == kind and one not in order]
                    ready = [one for one in ready if all(not need or (k, need) in order for k, need in before(*one))]
                    order |= dict.fromkeys(ready)
                    again = bool(ready) and kind != "students"
            todo = [one for one in todo if one not in order]
            if len(order) == begun:
                kinds = dict.fromkeys(kind for kind, _ in todo)
                names = ", ".join(name for _, name in todo)
                raise SpecError(f"{' and '.join(kinds)} {names} are made from each other in a circle")
        return list(order)

    @cached_property
    def generations(self) -> dict[str, int]:
        """How many students stand before each student, one after the other, as teachers."""
        found: dict[str, int] = {}

        def of_teacher(name: str) -> int:
            teacher = self.spec.teachers[name]
            if teacher.student is not None:
                return found[teacher.student] + 1
            return of_teacher(teacher.from_) if teacher.from_ is not None else 0

        for kind, name in self.in_order():
            if kind == "students":
                student = self.spec.students[name]
                asked = [] if student.labels is None else self.said_by(student.labels)
                found[name] = max((of_teacher(who) for who in (*asked, student.start) if who is not None), default=0)
        return found

    def targets_of(self, teacher: str) -> list[str]:
        """Domains that a teacher, or one made from it, labels."""
        labels, root = self.spec.labels, self.root(teacher)
        asked = (name for name, item in labels.items() if item.teacher is not None and self.root(item.teacher) == root)
        return list(dict.fromkeys(self.domain(name) for name in asked))

    def heirs(self, teacher: str) -> list[str]:
        """Domains whose labels rest on a teacher: its own, and those of teachers that are made from it."""
        asked = ((item.teacher, self.domain(name)) for name, item in self.spec.labels.items())
        found = [domain for who, domain in asked if who is not None and self._rests_on(who, teacher)]
        starts = ((student.start, self.target(student)) for student in self.spec.students.values())
        found += [domain for who, domain in starts if who is not None and self._rests_on(who, teacher)]
        return list(dict.fromkeys(found))

    def trained_on(self, teacher: str) -> tuple[str, ...]:
        """Domains that a teacher was trained on or carried over to, the first one first."""
        found = self.spec.teachers[teacher]
        if found.student is not None:
            student = self.spec.students[found.student]
            before = (self.trained_on(who) for who in self._taught(found.student)[:1] if who is not None)
            return tuple(dict.fromkeys([name for names in before for name in names] + [self.target(student)]))
        if found.from_ is None or found.adapt is None:
            return found.domains
        return (*self.trained_on(found.from_), found.adapt.domain)

    # --- labels ----------------------------------------------------------------------------------------------

    def domain(self, labels: str) -> str:
        """The domain that a label set speaks of."""
        return str(self.spec.domain_of(labels))

    def said_by(self, labels: str) -> list[str | None]:
        """Teachers that speak in a label set, the first one first; None for whoever spoke in a set of another store."""
        found = self.spec.labels[labels]
        every = [who for parent in found.fuse for who in self.said_by(parent)] if found.fuse else [found.teacher]
        return list(dict.fromkeys(every))

    # --- students --------------------------------------------------------------------------------------------

    def weighed(self, student: Student) -> tuple[str, ...]:
        """The label sets that a student reads and weighs itself; none where it reads one."""
        labels = self.spec.labels[student.labels] if student.labels is not None else None
        return labels.fuse if labels is not None and labels.weighed_by_students else ()

    def target(self, student: Student) -> str:
        """The domain that a student is for."""
        return self.domain(student.labels) if student.labels is not None else str(student.domain)

    def source(self, student: Student) -> str | None:
        """The domain that the student's teacher was trained on (the first of several); None if it is not known."""
        teacher = None if student.labels is None else self.said_by(student.labels)[0]
        if teacher is None:
            return None
        domains = self.spec.teachers[self.root(teacher)].domains
        return domains[0] if domains and domains[0] != self.target(student) else None

    def mixed(self, name: str, arm: Arm) -> str | None:
        """The source domain whose rows an arm of a student reads beside the target's; None if it reads none."""
        from stages.students.methods import get_method

        if arm == "source-only":
            return None
        wants = arm == "distilled" and get_method(self.normal.method[name]).needs.source
        student = self.spec.students[name]
        return self.source(student) if wants or student.training.source_share else None

    def maps_classes(self, student: Student) -> bool:
        """Whether the student's teacher was trained on other classes than it speaks of."""
        teacher = None if student.labels is None else self.said_by(student.labels)[0]
        return teacher is not None and bool(self.spec.teachers[self.root(teacher)].class_map)

    def baselines(self, name: str) -> tuple[Baseline, ...]:
        """What a student is compared with."""
        own = self.spec.students[name].baselines
        return self.spec.evaluation.baselines if own is None else own

    def arms(self, name: str) -> list[Arm]:
        """The arms of a student's comparison that its spec makes possible."""
        student = self.spec.students[name]
        budget = self.spec.domains[self.target(student)].label_budget
        nothing = budget is not None and budget.train == 0
        arms: list[Arm] = ["distilled"]
        for baseline in self.baselines(name):
            if baseline == "no-teacher" and (student.labels is None or nothing):
                continue
            if baseline.startswith("source") and (self.source(student) is None or self.maps_classes(student)):
                continue
            if baseline == "source-finetuned" and nothing:
                continue
            arms.append(baseline)
        return arms

    def trained_arms(self, name: str) -> list[Arm]:
        """Arms to train: what starts from the source-only student needs it, whether or not that one is shown."""
        arms = self.arms(name)
        return [*arms, "source-only"] if self.on_source_first(name) and "source-only" not in arms else arms

    def on_source_first(self, name: str) -> list[Arm]:
        """Arms that start from the source-only one of their seed."""
        first: tuple[Arm, ...] = (
            ("distilled", "source-finetuned") if self.spec.students[name].pretrain else ("source-finetuned",)
        )
        return [arm for arm in self.arms(name) if arm in first]

    def views(self, labels: str | None) -> Views:
        """The readings of each row that a label set holds; those of a fused one are its parents'."""
        if labels is None:
            return Views()
        if parents := self.spec.labels[labels].fuse:
            return self.views(parents[0])
        given = self.given.get(labels)
        return self.normal.views[labels] if given is None else given.views

    def stream_settings(self, name: str, on_source: bool) -> dict[str, Any]:
        """What students must have in common, beside their domain, to train from one stream on source or target."""
        training, views = self.normal.student_training[name], self.views(self.spec.students[name].labels)
        return {
            "batch_size": training.batch_size,
            "labelled_batch_size": training.labelled_batch_size or training.batch_size,
            # Rows with truth, those of baselines too, change as the views do: else these alone would tell of changes.
            "augmentation": training.augmentation or views.settings,
            "balanced": training.balance is not None and training.balance.by == "sampler",
            "views": Views() if on_source else views,
            "preprocessing": self.normal.student_preprocessing[name],
        }

    def cohort(self, name: str, on_source: bool) -> Cohort:
        """The students that a student trains with."""
        return self._cohorts[on_source][name]

    @cached_property
    def cohorts(self) -> list[Cohort]:
        """All cohorts on the students' targets, in the order of the spec."""
        return list(dict.fromkeys(self._cohorts[False].values()))

    @cached_property
    def _cohorts(self) -> tuple[dict[str, Cohort], dict[str, Cohort]]:
        return self._grouped(on_source=False), self._grouped(on_source=True)

    def _grouped(self, on_source: bool) -> dict[str, Cohort]:
        """Cohort by student: those that read one stream, as far as they are not pinned apart."""
        members: dict[str, list[str]] = {}
        for name, student in self.spec.students.items():
            domain = self.source(student) if on_source else self.target(student)
            if domain is not None and student.soup is None:
                apart = name if student.cohort in ALONE else student.cohort
                turn = 0 if on_source else self.generations[name]  # who learns from another waits for it
                key = repr((domain, self.stream_settings(name, on_source), apart, turn))
                members.setdefault(key, []).append(name)
        found: dict[str, Cohort] = {}
        for names in members.values():
            point = self.spec.students[names[0]].point
            whole = point is not None and self.grids[point.grid].keys() <= set(names)
            first = point.grid if point is not None and whole else names[0]
            title = f"students.{first}" + (f"+{len(names) - 1}" if len(names) > 1 else "")
            cohort = Cohort(f"{title}.source" if on_source else title, tuple(names), self._stream(names[0], on_source))
            found |= dict.fromkeys(names, cohort)
        return found

    def _stream(self, name: str, on_source: bool) -> str:
        """A student's stream in words."""
        student, settings = self.spec.students[name], self.stream_settings(name, on_source)
        rows = f"{settings['batch_size']} + {settings['labelled_batch_size']} labelled rows"
        words = [f"{self.source(student) if on_source else self.target(student)}, {rows} a step"]
        if settings["views"].count > 1:
            words.append(f"{settings['views'].count} views")
        words += [f"{key} {item}" for key, item in student.training.augmentation.items()]
        words += [f"{key} {item}" for key, item in student.preprocessing.items()]
        return ", ".join(words)

    # --- grids -----------------------------------------------------------------------------------------------

    @cached_property
    def grids(self) -> dict[str, dict[str, Point]]:
        """Points of each grid by the names of their students."""
        found: dict[str, dict[str, Point]] = {}
        for name, student in self.spec.students.items():
            if student.point is not None:
                found.setdefault(student.point.grid, {})[name] = student.point
        return found

    def of_grid(self, name: str, stage: str, tail: str = "") -> str | None:
        """What steers a step of a student together with those of all points of its grid."""
        point = self.spec.students[name].point
        return None if point is None else f"{stage}.{point.grid}{tail}"

    def halving(self, name: str) -> str | None:
        """The step that decides whether a student's point deserves its whole training."""
        student = self.spec.students[name]
        return f"halving.{student.point.grid}" if student.halving and student.point else None
