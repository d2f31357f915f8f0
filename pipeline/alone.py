"""One stage run alone, from inputs that somebody wrote or another team's artifacts gave."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.runner import told
from pipeline.view import View
from schemas.base import Document
from schemas.spec import Resources, Storage
from stages import cluster
from stages.base import Stage
from stages.context import Context
from stages.places import Place


def run_alone(
    stage: Stage[Any, Any], inputs: Document, workspace: str, local: bool, storage: Storage | None = None
) -> Document:
    """The outputs of one stage; what exists is adopted. The user's modules are looked for in this folder."""
    folder = Path.cwd()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    with View() as view:
        context = Context(
            workspace=Place(workspace, storage or Storage()),
            storage=storage or Storage(),
            resources=Resources(mode="local" if local else "ray"),
            step=stage.name,
            sink=view,
        )
        found: Document | None = stage.find(context, inputs)
        if found is not None:
            return found
        if not local:
            cluster.start(context.resources, folder)
            context = replace(context, bulletin=cluster.new_bulletin())
        context.tell("started")
        try:
            outputs: Document = stage.run(context, inputs)
        except Exception as error:
            raise told(error, stage.name) from error
        return outputs
