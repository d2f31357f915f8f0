"""A teacher as it is given: its weights are copied into the artifact as plain tensors, whatever file they came in."""

from __future__ import annotations

from typing import cast

from schemas.teachers import GivenTeacher, StudentTeacher
from stages.places import Place
from stages.tasks import get_task
from stages.teachers.work import Finished, Work, leave
from stages.training.models import build, read_card, read_state
from stages.training.weights import load_given


def take(work: Work) -> None:
    """Build the model, load its weights where a file is given, and leave it as a finished teacher.

    Without a file the weights are those that the factory brings; a callable has none, and its card is all.
    Raises ModelError for weights that do not fit, hold code, or have changed.
    """
    way, card, task = cast(GivenTeacher, work.inputs.way), work.card(), get_task(work.inputs.task)
    network = build(task, card.model, len(work.own_classes), card.preprocessing)
    if way.weights is not None:
        load_given(way.weights, network, storage=work.storage)
    leave(work, 1, Finished(card, network.state_dict()))


def take_student(work: Work) -> None:
    """Leave a student as a finished teacher, as it is."""
    student = cast(StudentTeacher, work.inputs.way).student
    place = Place(student.uri, work.storage)
    leave(work, 1, Finished(read_card(place, student), read_state(place, student)))
