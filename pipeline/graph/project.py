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
from schemas.spec import Point, Spec, Student
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
        if not self.has_budget(domain):
            return [0]
        students, teachers = self.spec.students.values(), self.spec.teachers.values()
        seeds = {seed for student in students if self.target(student) == domain for seed in student.seeds}
        seeds |= {teacher.seed for teacher in teachers if domain in teacher.domains}
        seeds |= {seed for student in students if self.source(student) == domain for seed in student.seeds}
        return sorted(seeds) or [0]

    def budget(self, domain: str, seed: int) -> str:
        """The step that draws a domain's budget for a seed."""
        return f"budgets.{domain}.seed{seed}" if self.has_budget(domain) else f"budgets.{domain}"

    def data(self, domain: str, *seeds: int) -> tuple[str, ...]:
        """The steps that make a domain, its splits, and its budgets for these seeds."""
        return (f"domains.{domain}", f"splits.{domain}", *(self.budget(domain, seed) for seed in seeds))

    # --- teachers --------------------------------------------------------------------------------------------

    def teachers_in_order(self) -> list[str]:
        """Teachers, each after the one that it is made from."""
        order: list[str] = []
        todo = list(self.spec.teachers)
        while todo:
            ready = [name for name in todo if self.spec.teachers[name].from_ in (None, *order)]
            if not ready:
                raise SpecError(f"teachers {', '.join(todo)} are made from each other in a circle")
            order += ready
            todo = [name for name in todo if name not in order]
        return order

    def root(self, teacher: str) -> str:
        """The teacher at the beginning of a chain of `from`."""
        while (parent := self.spec.teachers[teacher].from_) is not None:
            teacher = parent
        return teacher

    def targets_of(self, teacher: str) -> list[str]:
        """Domains that a teacher, or one made from it, labels."""
        labels, root = self.spec.labels, self.root(teacher)
        asked = (name for name, item in labels.items() if item.teacher is not None and self.root(item.teacher) == root)
        return list(dict.fromkeys(self.domain(name) for name in asked))

    def heirs(self, teacher: str) -> list[str]:
        """Domains whose labels rest on a teacher: its own, and those of teachers that are made from it."""
        found = []
        for name, item in self.spec.labels.items():
            who = item.teacher
            while who is not None and who != teacher:
                who = self.spec.teachers[who].from_
            if who is not None:
                found.append(self.domain(name))
        return list(dict.fromkeys(found))

    def trained_on(self, teacher: str) -> tuple[str, ...]:
        """Domains that a teacher was trained on or carried over to, the first one first."""
        found = self.spec.teachers[teacher]
        if found.from_ is None or found.adapt is None:
            return found.domains
        return (*self.trained_on(found.from_), found.adapt.domain)

    # --- labels ----------------------------------------------------------------------------------------------

    def domain(self, labels: str) -> str:
        """The domain that a label set speaks of."""
        return str(self.spec.domain_of(labels))

    def labels_in_order(self) -> list[str]:
        """Label sets, each after those that it fuses."""
        order: list[str] = []

        def add(name: str) -> None:
            for parent in self.spec.labels[name].fuse:
                add(parent)
            if name not in order:
                order.append(name)

        for name in self.spec.labels:
            add(name)
        return order

    def said_by(self, labels: str) -> list[str | None]:
        """Teachers that speak in a label set, the first one first; None for whoever spoke in a set of another store."""
        found = self.spec.labels[labels]
        every = [who for parent in found.fuse for who in self.said_by(parent)] if found.fuse else [found.teacher]
        return list(dict.fromkeys(every))

    # --- students --------------------------------------------------------------------------------------------

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

    def arms(self, name: str) -> list[Arm]:
        """The arms of a student's comparison that its spec makes possible."""
        student = self.spec.students[name]
        budget = self.spec.domains[self.target(student)].label_budget
        nothing = budget is not None and budget.train == 0
        arms: list[Arm] = ["distilled"]
        for baseline in self.spec.evaluation.baselines:
            if baseline == "no-teacher" and (student.labels is None or nothing):
                continue
            if baseline.startswith("source") and (self.source(student) is None or self.maps_classes(student)):
                continue
            if baseline == "source-finetuned" and nothing:
                continue
            arms.append(baseline)
        return arms

    def trained_arms(self, name: str) -> list[Arm]:
        """Arms to train: fine-tuning starts from the source-only student, whether or not that one is shown."""
        arms = self.arms(name)
        return [*arms, "source-only"] if "source-finetuned" in arms and "source-only" not in arms else arms

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
        training = self.normal.student_training[name]
        return {
            "batch_size": training.batch_size,
            "labelled_batch_size": training.labelled_batch_size or training.batch_size,
            "augmentation": training.augmentation,
            "balanced": training.balance is not None and training.balance.by == "sampler",
            "views": Views() if on_source else self.views(self.spec.students[name].labels),
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
            if domain is not None:
                apart = name if student.cohort in ALONE else student.cohort
                key = repr((domain, self.stream_settings(name, on_source), apart))
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
