"""Rounds: label, train, measure, and again, by a policy. `POLICIES` finds built-ins and entry points.

base.py       what a policy is and sees         NAME.py    one policy each
_chains.py    rounds so far, and when they end  _loop.py   plan and run, round by round
_unfold.py    rounds as an ordinary spec        _steps.py  the steps that measure, and what a report tells
"""

from __future__ import annotations

from pipeline.rounds.base import Policy
from schemas.base import Part
from stages.registry import Registry

POLICIES: Registry[type[Policy]] = Registry("policy", "pipeline.rounds", "POLICY", "crossdistill.policies")


def get_policy(part: Part) -> Policy:
    """The policy of a spec, configured. Raises SpecError for unknown names or settings."""
    return POLICIES.get(part.name)(POLICIES.configure(part, "rounds.policy"))
