"""Every contract by name, for `crossdistill schema` and the tests. Importing this imports them all."""

from __future__ import annotations

import importlib
import inspect

from schemas.base import Contract, Document, Part
from schemas.errors import ContractError, did_you_mean

BASES = (Contract, Document, Part)
MODULES = (
    "artifacts",
    "domains",
    "encodings",
    "evaluation",
    "labels",
    "lock",
    "models",
    "rounds",
    "runs",
    "screening",
    "spec",
    "students",
    "teachers",
    "training",
)


def contracts() -> dict[str, type[Contract]]:
    """Every contract by its class name, those of `schemas.base` left out."""
    found: dict[str, type[Contract]] = {}
    for module_name in MODULES:
        module = importlib.import_module(f"schemas.{module_name}")
        members = inspect.getmembers(module, inspect.isclass)
        found |= {name: value for name, value in members if issubclass(value, Contract) and value not in BASES}
    return dict(sorted(found.items()))


def documents() -> dict[str, type[Document]]:
    """The contracts that stand in files of their own."""
    return {name: value for name, value in contracts().items() if issubclass(value, Document)}


def contract(name: str) -> type[Contract]:
    """The contract of that name, in any case. Raises ContractError naming the probable one."""
    known = contracts()
    for other, value in known.items():
        if other.lower() == name.lower():
            return value
    raise ContractError(f"no contract is called '{name}'{did_you_mean(name, list(known))}")
