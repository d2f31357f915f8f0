"""Stage `soups`: students of one model, averaged weight by weight into a new one.

Wortsman et al., "Model soups", ICML 2022 (arXiv:2203.05482): `uniform` as their equation for all, `greedy` as their
recipe 1. Averages of weights are a model only where the students lie in one basin: where they start from the same
weights, or nearly do. Validation rows within the label budget choose, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.artifacts import BudgetRef, ModelRef, SamplesRef, SplitRef
from schemas.base import Contract, Part
from schemas.errors import DataError, ModelError
from schemas.spec import Storage
from schemas.students import CohortOutputs, Ingredient, Pot, SoupInputs, StudentOutputs
from stages.artifacts import Attempt, find_artifact, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.places import Place
from stages.tasks import task_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

BATCH = 256
NOTHING = "none of the students that it is made of has a model"
State = dict[str, "torch.Tensor"]


class Soups(Stage[SoupInputs, CohortOutputs]):
    """A student for each seed, made of others' weights."""

    name = "soups"
    Inputs = SoupInputs
    Outputs = CohortOutputs

    def code(self, inputs: SoupInputs) -> dict[str, str]:
        """The task's, and a user's own model factory."""
        return task_code(inputs.task, inputs.model)

    def parts(self, inputs: SoupInputs) -> dict[str, Contract]:
        """One part per seed."""
        return {f"{inputs.name}/{pot.seed}": inputs.model_copy(update={"pots": (pot,)}) for pot in inputs.pots}

    def find(self, context: Context, inputs: SoupInputs) -> CohortOutputs | None:
        """The outputs if every soup exists that can be made."""
        found = [self._found(context, inputs, pot) for pot in inputs.pots]
        students = tuple(one for one in found if one is not None)
        return CohortOutputs(students=students) if len(students) == len(found) else None

    def run(self, context: Context, inputs: SoupInputs) -> CohortOutputs:
        """Make those that are missing, here or as one Ray task each.

        Raises ModelError for students that are different models, DataError where validation rows are to choose and
        there are none.
        """
        students = []
        for pot in inputs.pots:
            if (found := self._found(context, inputs, pot)) is None:
                attempt = self._attempt(context, inputs.model_copy(update={"pots": (pot,)}))
                if context.local:
                    cook(attempt, context.storage)
                else:
                    from stages.cluster import on_ray

                    on_ray(context.step, context.resources, cook, attempt, context.storage)
                found = self._found(context, inputs, pot)
            assert found is not None, "it was made, or its fault raised"
            students.append(found)
        return CohortOutputs(students=tuple(students))

    def example(self) -> SoupInputs:
        """Two students of one seed."""
        none: Any = {"uri": "workspace/artifacts/STAGE/FINGERPRINT", "fingerprint": "0" * 32, "digest": "0" * 32}
        ingredients = tuple(Ingredient(name=name, model=ModelRef(**none)) for name in ("mobile", "mobile-hot"))
        return SoupInputs(
            name="soup",
            task=Part.model_validate({"name": "image-classification", "image_size": 16, "channels": 1}),
            model=Part(name="mobile-tiny"),
            how="greedy",
            metric="accuracy",
            samples=SamplesRef(**none),
            split=SplitRef(**none),
            pots=(Pot(ingredients=ingredients, budget=BudgetRef(**none)),),
        )

    def _attempt(self, context: Context, asked: SoupInputs) -> Attempt:
        (fingerprint,) = self.fingerprints(asked).values()
        folder = context.artifact_place(self.name, fingerprint)
        return Attempt(folder, self.name, self.version, fingerprint, asked, self.code(asked))

    def _found(self, context: Context, inputs: SoupInputs, pot: Pot) -> StudentOutputs | None:
        """The soup of a pot under the names that are asked for now."""
        if not pot.ingredients:
            return StudentOutputs(name=inputs.name, seed=pot.seed, model=None, failure=NOTHING)
        (fingerprint,) = self.fingerprints(inputs.model_copy(update={"pots": (pot,)})).values()
        folder = context.artifact_place(self.name, fingerprint)
        if (artifact := find_artifact(folder)) is None:
            return None
        return outputs_of(artifact, folder, StudentOutputs).model_copy(update={"name": inputs.name})


@dataclass
class Mean:
    """Weights averaged one after the other."""

    total: State
    """Sums in float64; what is no fraction stays as the first one has it."""
    count: int

    @classmethod
    def of(cls, state: State) -> Mean:
        """Of one."""
        return cls({name: _wide(values) for name, values in state.items()}, 1)

    def with_(self, state: State) -> Mean:
        """With one more. Raises ModelError for weights of other names or shapes."""
        ours, theirs = ({name: tuple(values.shape) for name, values in one.items()} for one in (self.total, state))
        if ours != theirs:
            raise ModelError(
                "weights are averaged between equal models only, and these differ in names or shapes: give the soup "
                "students of one model"
            )
        added = {
            name: values + state[name].to(values.dtype) if values.is_floating_point() else values
            for name, values in self.total.items()
        }
        return Mean(added, self.count + 1)

    def like(self, state: State) -> State:
        """The mean, in the number formats of a state."""
        return {
            name: (values / self.count).to(state[name].dtype) if values.is_floating_point() else values
            for name, values in self.total.items()
        }


def cook(attempt: Attempt, storage: Storage) -> None:
    """Make one soup and commit it; runs wherever it was sent."""
    from stages.domains.reader import Samples, read_budget, read_split
    from stages.evaluation.predict import model_logits
    from stages.training.models import load_model, save_model
    from stages.training.statistics import re_estimate

    inputs = attempt.inputs
    assert isinstance(inputs, SoupInputs), "what the stage gave"
    (pot,) = inputs.pots
    samples = Samples.open(Place(inputs.samples.uri, storage), inputs.samples)
    split = read_split(Place(inputs.split.uri, storage), inputs.split)
    budget = read_budget(Place(pot.budget.uri, storage), pot.budget)
    model = load_model(Place(pot.ingredients[0].model.uri, storage), pot.ingredients[0].model)
    states = [_state(Place(one.model.uri, storage), one, model.card.classes) for one in pot.ingredients]
    first = states[0]

    def fill(mean: Mean) -> State:
        """The network with these weights, with statistics of its own where they are several students'."""
        model.network.load_state_dict(mean.like(first))
        if mean.count > 1:
            re_estimate(model, samples, split, BATCH)
        return {name: values.cpu().clone() for name, values in model.network.state_dict().items()}

    def worth(mean: Mean) -> float:
        fill(mean)
        said = model_logits(model, samples, budget.validation_positions, BATCH)
        figure = model.task.score(said, budget.validation_truth, (inputs.metric,))[inputs.metric]
        return -figure if inputs.metric in model.task.errors else figure

    if inputs.how == "uniform":
        chosen, mean = list(range(len(states))), Mean.of(first)
        for state in states[1:]:
            mean = mean.with_(state)
    elif not len(budget.validation_positions):
        raise DataError(
            f"soup '{inputs.name}' chooses by validation labels, and its label budget has none: give it some "
            "(`label_budget.validation`), or `how: uniform`"
        )
    else:
        chosen, mean = greedy(states, worth)
    state = fill(mean)
    content = save_model(attempt, model.card, state)
    attempt.commit(
        StudentOutputs(
            name=inputs.name,
            seed=pot.seed,
            model=ModelRef(uri=attempt.folder.uri, fingerprint=attempt.fingerprint, digest=content),
            averaged=tuple(pot.ingredients[number].name for number in chosen),
        ),
        content,
    )


def greedy(states: Sequence[State], worth: Callable[[Mean], float]) -> tuple[list[int], Mean]:
    """(numbers of those taken, their mean): the best one, then each of the others, best first, that does not lower it.

    `worth`: larger is better; of equal ones the first comes first.
    """
    alone = [worth(Mean.of(state)) for state in states]
    best, *others = sorted(range(len(states)), key=lambda number: -alone[number])
    chosen, mean, figure = [best], Mean.of(states[best]), alone[best]
    for number in others:
        more = mean.with_(states[number])
        if (found := worth(more)) >= figure:
            chosen, mean, figure = [*chosen, number], more, found
    return chosen, mean


def _state(place: Place, one: Ingredient, classes: tuple[str, ...]) -> State:
    from stages.training.models import read_card, read_state

    if read_card(place, one.model).classes != classes:
        raise ModelError(f"student '{one.name}' speaks of other classes than those that it is to be averaged with")
    return read_state(place, one.model)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.double() if values.is_floating_point() else values.clone()


SOUPS = Soups()
