"""Plug-ins: one generic registry, built-ins by name and others through entry points, loaded on first use.

A task, method or policy is one file. Finding names and sources loads none of them (and no torch).
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from schemas.base import Contract, Part
from schemas.errors import ModelError, SpecError, did_you_mean, explain

T = TypeVar("T")


class Registry(Generic[T]):
    """Plug-ins of one kind: the modules of `package`, and entry points of `group`.

    A module's plug-in is the object called `attribute` in it; its name is the module's with hyphens.
    """

    def __init__(self, kind: str, package: str, attribute: str, group: str) -> None:
        self.kind, self.package, self.attribute, self.group = kind, package, attribute, group

    @cached_property
    def _targets(self) -> dict[str, str]:
        package = importlib.import_module(self.package)
        targets = {
            info.name.replace("_", "-"): f"{self.package}.{info.name}:{self.attribute}"
            for info in pkgutil.iter_modules(package.__path__)
            if not info.name.startswith("_") and info.name != "base"
        }
        for point in entry_points(group=self.group):
            if point.name in targets and targets[point.name] != point.value:
                raise ModelError(
                    f"two {self.kind}s are called '{point.name}': {targets[point.name]} and {point.value}; "
                    "uninstall one of the packages"
                )
            targets[point.name] = point.value
        return targets

    def names(self) -> list[str]:
        """Known names, sorted."""
        return sorted(self._targets)

    def target(self, name: str) -> str:
        """`module:attribute` of a plug-in. Raises SpecError naming the probable one."""
        if name not in self._targets:
            raise SpecError(f"no {self.kind} is called '{name}'{did_you_mean(name, self.names())}")
        return self._targets[name]

    def get(self, name: str) -> T:
        """The plug-in. Raises SpecError if unknown, ModelError if its module fails to load."""
        target = self.target(name)
        module_name, _, attribute = target.partition(":")
        try:
            value: T = getattr(importlib.import_module(module_name), attribute)
        except Exception as error:  # noqa: BLE001 (a foreign module may fail in any way)
            raise ModelError(f"the {self.kind} '{name}' ({target}) cannot be loaded: {error!r}") from None
        return value

    def configure(self, part: Part, where: str) -> Any:
        """The plug-in's validated `Config` of a part. Raises SpecError with every fault, by field."""
        if part.name not in self._targets:
            raise SpecError(f"{where}: no {self.kind} is called '{part.name}'{did_you_mean(part.name, self.names())}")
        plugin: Any = self.get(part.name)
        return validate_settings(plugin.Config, part.settings, where)

    def normal(self, part: Part, where: str) -> Part:
        """The part with its settings validated and every default written out: what a fingerprint sees."""
        config: Contract = self.configure(part, where)
        return Part.model_validate({"name": part.name, **config.dump()})


def validate_settings(config: type[Contract], settings: dict[str, Any], where: str) -> Any:
    """Raw settings in their contract. Raises SpecError with one sentence per fault."""
    try:
        return config.model_validate(settings)
    except ValidationError as error:
        raise SpecError(*(f"{where}: {line}" for line in explain(error, config))) from None
