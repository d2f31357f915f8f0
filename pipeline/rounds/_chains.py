"""The rounds of each chain so far, what its policy asks next, and when it ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.rounds.base import Base, Past, Policy, Round, Stop, at
from schemas.rounds import RoundOutputs, RoundRecord, Rounds
from schemas.spec import Labels, Spec, Student, Teacher


@dataclass
class Chain:
    """One seed's rounds."""

    seed: int
    base: Base
    asked: list[Round]
    """What each round asks, from the first."""
    past: list[Past] = field(default_factory=list)
    """Rounds that are over."""
    records: list[RoundRecord] = field(default_factory=list)
    """The same as they were left."""
    ended: str | None = None
    """Why there is no further round; none: there is one, or it is not known yet."""

    def named(self, name: str) -> str:
        """A name of the chain as it stands in the unfolded spec."""
        return f"{name}.s{self.seed}"

    def named_set(self, name: str) -> str:
        """The same of a label set; one of somebody's store is everybody's, and keeps its own."""
        given = name in self.base.labels and self.base.labels[name].from_ is not None
        return name if given else self.named(name)

    @property
    def best(self) -> int:
        """The round whose students are the result."""
        return self.base.best(self.past).number


def base_of(spec: Spec, seed: int) -> Base:
    """What a spec asks for in the chain of a seed."""
    from stages.tasks import get_task

    task = get_task(spec.task)
    metric = (*spec.evaluation.metrics, task.metrics[0])[0]
    students = {name: student for name, student in spec.students.items() if seed in student.seeds}
    return Base(spec.teachers, spec.labels, students, metric, metric in task.errors, metric not in task.unbounded)


def chains_of(spec: Spec, policy: Policy) -> list[Chain]:
    """The chains at their beginning, by seed. Raises SpecError where the policy has nothing to work with."""
    seeds = sorted({seed for student in spec.students.values() for seed in student.seeds})
    bases = {seed: base_of(spec, seed) for seed in seeds}
    return [Chain(seed, base, [policy.initial(base)]) for seed, base in bases.items()]


def go_on(chain: Chain, done: Mapping[str, Any], policy: Policy, rounds: Rounds) -> bool:
    """Take in the chain's newest round if it is measured, and ask for the next; whether there is one."""
    number = len(chain.past) + 1
    found = done.get(step_of(chain, number))
    if chain.ended is not None or number > len(chain.asked) or not isinstance(found, RoundOutputs):
        return False
    record = found.record
    asked = chain.asked[-1]
    made = {name: done.get(f"teachers.{chain.named(name)}") for name in chain.base.teachers}
    fixed = frozenset(name for name, one in made.items() if one is not None and not one.statistics)
    chain.base = replace(chain.base, fixed=fixed)
    own = {chain.named(at(name, number)): name for name in asked.students}
    sets = {chain.named_set(name): name for name in _sets(asked)}
    chain.records.append(record)
    chain.past.append(
        Past(
            number,
            asked,
            {own[one.name]: one for one in record.students},
            {sets[one.name]: one for one in record.sets},
            record.classes,
            record.disagreement,
        )
    )
    chain.ended = reason_to_end(chain.base, chain.past, rounds)
    if chain.ended is None:
        following = policy.next(chain.base, chain.past)
        if isinstance(following, Stop):
            chain.ended = following.reason
        else:
            chain.asked.append(following)
    return chain.ended is None


def step_of(chain: Chain, number: int) -> str:
    """The step that measures a round."""
    return f"rounds.s{chain.seed}.{number}"


def reason_to_end(base: Base, past: list[Past], rounds: Rounds) -> str | None:
    """Why a chain ends after its newest round, or None: the target, no gain, no figures, or the most rounds."""
    now = base.of_round(past[-1])
    if now is None:
        return f"all students of round {past[-1].number} failed"
    for metric, wanted in rounds.until.items():
        found = [one.quality[metric] for one in past[-1].students.values() if metric in one.quality]
        if not found or not _reached(base, metric, sum(found) / len(found), wanted):
            break
    else:
        if rounds.until:
            reached = ", ".join(f"{metric} {wanted:g}" for metric, wanted in rounds.until.items())
            return f"the target is reached: {reached}"
    figures = [float("-inf") if figure is None else figure for figure in map(base.of_round, past)]
    if len(past) > rounds.patience:
        gain = max(figures[-rounds.patience :]) - max(figures[: -rounds.patience])
        if gain < rounds.min_gain:
            many = f"{rounds.patience} rounds" if rounds.patience > 1 else "a round"
            return f"no gain of {base.points(rounds.min_gain)} in {many}"
    if len(past) >= rounds.max_rounds:
        return f"the most rounds ({rounds.max_rounds}) are done"
    return None


def _reached(base: Base, metric: str, value: float, wanted: float) -> bool:
    return value <= wanted if metric == base.metric and base.error else value >= wanted


def _sets(asked: Round) -> list[str]:
    return list(dict.fromkeys(str(student.labels) for student in asked.students.values()))


def unfolded(spec: Spec, chains: list[Chain]) -> Spec:
    """An ordinary spec of all rounds so far, with each chain's teachers, label sets and students by its own names."""
    teachers: dict[str, Teacher] = {}
    labels: dict[str, Labels] = {}
    students: dict[str, Student] = {}
    for chain in chains:
        for number, asked in enumerate(chain.asked, start=1):
            teachers |= {chain.named(name): _teacher(chain, one) for name, one in asked.teachers.items()}
            labels |= {chain.named_set(name): _labels(chain, one) for name, one in asked.labels.items()}
            students |= {chain.named(name): _student(chain, one) for name, one in asked.helpers.items()}
            for name, one in asked.students.items():
                compared = one.baselines if number == 1 else ()
                student = one.model_copy(update={"baselines": compared})
                students[chain.named(at(name, number))] = _student(chain, student)
    return spec.model_copy(update={"teachers": teachers, "labels": labels, "students": students})


def _teacher(chain: Chain, teacher: Teacher) -> Teacher:
    """A teacher trained here belongs to its chain; one that was a student had the chain's seed."""
    names = {"from_": teacher.from_, "student": teacher.student}
    seed = chain.seed if teacher.student is not None else teacher.seed + (chain.seed if teacher.domains else 0)
    moved = {key: chain.named(name) for key, name in names.items() if name is not None}
    return teacher.model_copy(update={**moved, "seed": seed})


def _labels(chain: Chain, labels: Labels) -> Labels:
    if labels.from_ is not None:
        return labels
    teacher = None if labels.teacher is None else chain.named(labels.teacher)
    return labels.model_copy(update={"teacher": teacher, "fuse": tuple(map(chain.named_set, labels.fuse))})


def _student(chain: Chain, student: Student) -> Student:
    start = None if student.start is None else chain.named(student.start)
    labels = None if student.labels is None else chain.named_set(student.labels)
    return student.model_copy(update={"labels": labels, "start": start, "seeds": (chain.seed,)})
