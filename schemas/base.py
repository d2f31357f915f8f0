"""The base of every contract: unknown keys are errors, values never change, files carry a version.

`Contract` is a part of a document; `Document` stands in a file of its own and carries a version, so that
an older or newer file is read or refused by name and never misread.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from schemas.errors import DIGEST_PATTERN, NAME_PATTERN, ContractError, explain

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A name given by people: letters, digits, dot, underscore, hyphen; safe as a file name."""

Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
"""blake2b-128 in hexadecimal."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share between 0 and 1."""


class Contract(BaseModel):
    """What crosses a boundary: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        protected_namespaces=(),
    )

    circumstance: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where or how fast, never what: left out of every fingerprint."""

    def dump(self) -> dict[str, Any]:
        """This contract as plain JSON values, aliases used."""
        return self.model_dump(mode="json")


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ValueError(f"{', '.join(twice)} stand in it twice: class names differ from each other")
    return names


Classes = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)]
"""Class names in order, each once."""


class Part(Contract):
    """A plug-in (task, method, model, policy): its name and its raw settings.

    The settings are checked by the plug-in's own `Config`, which stands in the plug-in's own file.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    """The registered name, `timm/NAME`, `torchvision/NAME` or `package.module:factory`."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping | Part):
            raise ValueError("give a name, or a mapping of `name` and its settings")
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        """Everything beside the name."""
        return dict(self.model_extra or {})


class Document(Contract):
    """A contract that stands in a file of its own, with the version of its form."""

    VERSION: ClassVar[int] = 1
    """The version written by this release, and the only one that it reads unless `upgrade` says more."""

    version: int = 0
    """Version of this document's form."""

    @classmethod
    def upgrade(cls, value: dict[str, Any]) -> dict[str, Any] | None:
        """An older document in today's form, or None if this release cannot read it."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _check_version(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        found = value.get("version", cls.VERSION)
        if found == cls.VERSION and type(found) is int:
            return {**value, "version": cls.VERSION}
        kind = cls.__name__
        if type(found) is not int or found < 1:
            raise ValueError(f"version of a {kind} is a whole number from 1 to {cls.VERSION}, not {found!r}")
        if found > cls.VERSION:
            raise ValueError(
                f"this {kind} has version {found}, this release reads up to version {cls.VERSION}: "
                "install a newer crossdistill"
            )
        upgraded = cls.upgrade(dict(value))
        if upgraded is None:
            raise ValueError(
                f"this {kind} has version {found}, which this release no longer reads "
                f"(it reads version {cls.VERSION}): make it again, or use the release that wrote it"
            )
        return {**upgraded, "version": cls.VERSION}

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """A document from plain values, as read from a file.

        Raises ContractError naming `where`, every fault, and for an unknown field the probable one.
        """
        if not isinstance(value, Mapping):
            held = "it is empty" if value is None else f"it holds a {type(value).__name__}, not a mapping"
            raise ContractError(f"{where} is not a {cls.__name__}: {held}")
        if "version" not in value:
            raise ContractError(f"{where} has no version: a {cls.__name__} begins with `version: {cls.VERSION}`")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ContractError(*(f"{where}: {line}" for line in explain(error, cls))) from None

    @classmethod
    def parse_json(cls, data: bytes | str, where: str) -> Self:
        """`parse` of JSON text. Raises ContractError if it is not JSON."""
        try:
            value = json.loads(data)
        except (ValueError, UnicodeDecodeError) as error:
            raise ContractError(f"{where} is not JSON: {error}") from None
        return cls.parse(value, where)

    def to_json(self) -> bytes:
        """As stands in a file: indented, keys in the order of the contract, one newline at the end."""
        return (json.dumps(self.dump(), indent=2, ensure_ascii=False) + "\n").encode()


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
    """(name as written, description) of each field of a contract."""
    for name, field in model.model_fields.items():
        yield field.alias or name, field.description
