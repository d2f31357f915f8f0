"""Plan and run, round by round: a plan unfolds as far as rounds are measured, a run goes on until all chains end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pipeline.checks import check_spec
from pipeline.graph import Graph
from pipeline.graph.judging import add_costs, add_report
from pipeline.graph.project import Project
from pipeline.planner import Plan, make_plan
from pipeline.rounds import get_policy
from pipeline.rounds._chains import Chain, chains_of, go_on, unfolded
from pipeline.rounds._steps import add_results, add_rounds, section
from pipeline.rounds.base import Policy, at
from pipeline.runner import Listener, RunResult, Selection, execute
from pipeline.specs import LoadedSpec
from schemas.rounds import Rounds
from schemas.spec import Spec
from stages.context import Context


def plan_rounds(
    loaded: LoadedSpec, context: Context, look_only: bool = False, update_lock: bool = False
) -> tuple[Plan, list[Chain]]:
    """The plan of all rounds that are known, and the chains so far. Raises as `make_plan`."""
    check_spec(loaded, context.workspace)  # first in the words of the file
    spec, rounds = loaded.spec, loaded.spec.rounds
    assert rounds is not None, "a spec with rounds"
    policy = get_policy(rounds.policy)
    chains = chains_of(spec, policy)

    def planned(look: bool) -> Plan:
        whole = replace(loaded, spec=unfolded(spec, chains))
        judge = partial(_judge, asked=spec, chains=chains, rounds=rounds, policy=policy)
        return make_plan(whole, context, look, update_lock, judge)

    plan = planned(look=True)
    while grown(chains, plan, policy, rounds):
        plan = planned(look=True)
    return (plan if look_only else planned(look=False)), chains


def grown(chains: list[Chain], plan: Plan, policy: Policy, rounds: Rounds) -> bool:
    """Take in what the plan found measured; whether any chain has a round more to show for it."""
    before = sum(len(chain.past) for chain in chains)
    for chain in chains:
        go_on(chain, plan.outputs, policy, rounds)
    return sum(len(chain.past) for chain in chains) > before


def run_rounds(
    loaded: LoadedSpec,
    context: Context,
    selection: Selection,
    listener: Listener,
    command: str,
    update_lock: bool,
) -> RunResult:
    """Do round after round until every chain has ended; goes on where a killed run was. Raises as `execute`."""
    made: list[str] = []
    heard: set[str] = set()
    while True:
        plan, chains = plan_rounds(loaded, context, update_lock=update_lock and not made)
        for line in (line for chain in chains for line in _told(chain) if line not in heard):
            heard.add(line)
            context.tell("note", line)
        if plan.locked is not None:
            plan.locked.write()
        result = execute(plan, context, selection, listener, command)
        made += result.made
        steered = bool(selection.only or selection.start)
        selection = replace(selection, force=())
        if result.failures or steered or not result.made:
            return replace(result, made=made)


def _told(chain: Chain) -> list[str]:
    """What was decided in a chain, in words."""
    who = f"chain {chain.seed}"
    lines = [f"{who}, round {number}: {asked.decision}" for number, asked in enumerate(chain.asked, 1) if number > 1]
    return [*lines, f"{who} ends: {chain.ended}; round {chain.best} is the best"] if chain.ended else lines


def _judge(graph: Graph, project: Project, asked: Spec, chains: list[Chain], rounds: Rounds, policy: Policy) -> None:
    add_rounds(graph, project, chains, rounds)
    if any(chain.ended is None for chain in chains):
        graph.notes.append(_bound(chains, rounds, policy))
        return
    add_results(graph, project, chains, asked)
    named = {name: next(chain for chain in chains if chain.seed in one.seeds) for name, one in asked.students.items()}
    add_costs(graph, project, {name: chain.named(at(name, chain.best)) for name, chain in named.items()})
    best = {chain.named(at(name, chain.best)) for chain in chains for name in chain.base.students}
    add_report(
        graph,
        project,
        shown=[f"evaluation.{name}" for name in asked.students],
        sets={str(project.spec.students[name].labels) for name in best},
        rounds=lambda done: section(done, chains, asked, rounds),
    )


def _bound(chains: list[Chain], rounds: Rounds, policy: Policy) -> str:
    """What is still to come, at most."""
    going = [chain for chain in chains if chain.ended is None]
    left = sum(rounds.max_rounds - len(chain.asked) for chain in going)
    parts = [policy.most(chain.base) for chain in going]
    costs = [(rounds.max_rounds - len(chain.asked), most) for chain, most in zip(going, parts, strict=True)]
    teachers, labels, students = (
        sum(more * getattr(most, kind) for more, most in costs) for kind in ("teachers", "labels", "students")
    )
    newest = max(len(chain.asked) for chain in going)
    return (
        f"rounds ({rounds.policy.name}): round {newest} of at most {rounds.max_rounds} in {len(going)} chains; after "
        f"it at most {left} more in all, with {teachers} teachers to make, {labels} passes of a teacher over the "
        f"target and {students} students to train"
    )
