"""Steps that make the data: domains, their splits, and the draws of their label budgets."""

from __future__ import annotations

from functools import partial

from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from schemas.domains import BudgetInputs, DomainInputs, SplitInputs


def add_domain(graph: Graph, project: Project, name: str) -> None:
    """`domains.NAME`, `splits.NAME` and a `budgets.NAME…` for each draw."""
    domain = project.spec.domains[name]
    samples = graph.add(
        f"domains.{name}",
        (),
        lambda done: DomainInputs(
            source=domain.from_,
            source_digest=project.source_digests.get(name),
            task=project.task,
            columns=domain.columns,
            classes=domain.classes,
            prepare=project.normal.prepare[name],
            on_bad_row=domain.on_bad_row,
            shard_rows=domain.shard_rows,
        ),
    )
    split = graph.add(
        f"splits.{name}",
        (samples,),
        lambda done: SplitInputs(samples=done[samples].samples, split=domain.split),
    )

    def drawn(done: Outputs, seed: int) -> BudgetInputs:
        if domain.label_budget is not None:
            domain.label_budget.left_out(done[samples].classes or (), f"domains.{name}.label_budget")
        return BudgetInputs(
            samples=done[samples].samples,
            split=done[split].split,
            truth=done[samples].truth,
            label_budget=domain.label_budget,
            seed=seed,
        )

    for seed in project.draws(name):
        graph.add(project.budget(name, seed), (samples, split), partial(drawn, seed=seed))
