"""Every contract, through the registry: described, frozen, round trip, refusals, versions."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import schemas.errors
from schemas.base import Contract, Document, fields_of
from schemas.errors import ContractError, CrossdistillError, did_you_mean
from schemas.labels import Requirements
from schemas.registry import contract, contracts, documents

D = "0" * 32


def example(schema: dict[str, Any], root: dict[str, Any], prefer: str | None = None) -> Any:
    """The smallest value that fits a JSON Schema of pydantic's: required fields only."""
    if "$ref" in schema:
        name = schema["$ref"].split("/")[-1]
        return SPECIAL[name]() if name in SPECIAL else example(root["$defs"][name], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return example(schema[key][0], root)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            needed = [*schema.get("required", []), *(name for name, rule in properties.items() if "const" in rule)]
            return {name: example(properties[name], root) for name in needed}
        case "array":
            return (
                [example(schema["items"], root) for _ in range(schema.get("minItems", 0))] if "items" in schema else []
            )
        case "string":
            return D if "32" in schema.get("pattern", "") else "some-name"
        case "integer":
            return max(1, schema.get("minimum", 1))
        case "number":
            return 0.5
        case "boolean":
            return True
        case "null":
            return None
    return {}


SPECIAL: dict[str, Any] = {
    "Source": lambda: {"example": "mnist-5k"},
    "Split": lambda: {"train": 0.75, "test": 0.25},
    "Teacher": lambda: {"model": "resnet-tiny", "domains": ["mnist"]},
    "Labels": lambda: {"teacher": "big", "domain": "digits"},
    "Mixing": lambda: {"mixup": 0.5},
    "Signature": lambda: {"key": "0" * 64, "value": "0" * 128},
    "Fusion": lambda: {
        "sets": [{"uri": "some-name", "fingerprint": D, "digest": digit * 32} for digit in "01"],
        "weights": "confidence",
    },
    "LabelsInputs": lambda: example_with("LabelsInputs", "teacher"),
}


def example_with(name: str, field: str) -> Any:
    """An example with one field more than those that every value has."""
    schema = contracts()[name].model_json_schema(by_alias=True)
    return {**example(schema, schema), field: example(schema["properties"][field], schema)}


def instance(name: str) -> Contract:
    """One valid value of a contract."""
    model = contracts()[name]
    value = SPECIAL[name]() if name in SPECIAL else example(schema := model.model_json_schema(by_alias=True), schema)
    return model.model_validate(value)


@pytest.mark.parametrize("name", contracts())
def test_round_trip_through_json(name: str) -> None:
    value = instance(name)
    again = type(value).model_validate(json.loads(json.dumps(value.dump())))
    assert again == value
    assert again.dump() == value.dump()


@pytest.mark.parametrize("name", contracts())
def test_every_field_is_described(name: str) -> None:
    bare = [field for field, description in fields_of(contracts()[name]) if not description and field != "version"]
    assert not bare


@pytest.mark.parametrize("name", contracts())
def test_unknown_fields_are_refused_and_values_never_change(name: str) -> None:
    value = instance(name)
    with pytest.raises(ValidationError):
        type(value).model_validate({**value.dump(), "no_such_field": 1})
    field = next(iter(type(value).model_fields))
    with pytest.raises(ValidationError):
        setattr(value, field, None)


@pytest.mark.parametrize("name", documents())
def test_versions_are_read_or_refused_by_name(name: str) -> None:
    model, value = documents()[name], instance(name).dump()
    assert model.parse(value, "x.json").version == model.VERSION
    newer = {**value, "version": model.VERSION + 1}
    with pytest.raises(ContractError, match=f"x.json.*{name} has version {model.VERSION + 1}.*install a newer"):
        model.parse(newer, "x.json")
    for strange in (0, -1, "1", 1.0, None, True):
        with pytest.raises(ContractError, match="version"):
            model.parse({**value, "version": strange}, "x.json")
    del value["version"]
    with pytest.raises(ContractError, match="has no version"):
        model.parse(value, "x.json")


def test_an_older_document_is_upgraded_or_refused() -> None:
    class Old(Document):
        VERSION = 3
        rows: int

        @classmethod
        def upgrade(cls, value: dict[str, Any]) -> dict[str, Any] | None:
            return {"rows": value["lines"]} if value["version"] == 2 else None

    assert Old.parse({"version": 2, "lines": 7}, "x").rows == 7
    with pytest.raises(ContractError, match="version 1, which this release no longer reads"):
        Old.parse({"version": 1, "lines": 7}, "x")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"modle": "x"},
            ["unknown field 'students.s.modle'", "did you mean 'model'?", "'students.s.model' is missing"],
        ),
        ({"model": "x", "training": {"epoch": 1}}, ["did you mean 'epochs'?"]),
        ({"model": "x", "training": {"learning_rate": -1}}, ["greater than 0", "found -1"]),
        ({"model": "x", "training": {"learning_rate": float("nan")}}, ["finite number"]),
        ({"model": "x", "training": {"epochs": 1, "steps": 1}}, ["not both"]),
        ({"model": "x", "training": {"schedule": "cosin"}}, ["one of constant, inverse-time", "mean 'cosine'?"]),
        ({"model": "x", "training": {"schedule": {"name": "step", "epoch": 3}}}, ["did you mean 'epochs'?"]),
        (
            {"model": "x", "training": {"schedule": "inverse-time"}},
            ["decay' is missing"],
        ),
    ],
)
def test_a_misspelled_field_names_the_probable_one(value: dict[str, Any], words: list[str]) -> None:
    spec = {**instance("Spec").dump(), "students": {"s": value}}
    with pytest.raises(ContractError) as error:
        documents()["Spec"].parse(spec, "spec.yaml")
    for word in words:
        assert word in str(error.value)


def test_bounds_hold() -> None:
    """Each numeric bound of each contract is crossed once."""
    crossed = 0
    for name, model in contracts().items():
        schema = model.model_json_schema(by_alias=True)
        for field, rule in schema.get("properties", {}).items():
            for key, step in (("minimum", -1), ("exclusiveMinimum", 0), ("maximum", 1), ("exclusiveMaximum", 0)):
                if key in rule:
                    crossed += 1
                    with pytest.raises(ValidationError) as error:
                        model.model_validate({**instance(name).dump(), field: rule[key] + step})
                    assert field in str(error.value)
    assert crossed > 60


def test_an_unknown_contract_names_the_probable_one() -> None:
    with pytest.raises(ContractError, match="did you mean 'Receipt'"):
        contract("Reciept")
    assert contract("spec").__name__ == "Spec"


def _errors() -> list[type[CrossdistillError]]:
    return [
        value
        for value in vars(schemas.errors).values()
        if isinstance(value, type) and issubclass(value, CrossdistillError)
    ]


@pytest.mark.parametrize("kind", _errors())
def test_errors_survive_a_process_boundary(kind: type[CrossdistillError]) -> None:
    error = pickle.loads(pickle.dumps(kind("first.", "second.")))
    assert type(error) is kind
    assert error.problems == ("first.", "second.")
    assert str(error) == "first.\nsecond."
    assert kind.__name__ in (schemas.errors.__doc__ or "")


def test_did_you_mean() -> None:
    assert did_you_mean("tempreature", ["temperature", "alpha"]) == "; did you mean 'temperature'?"
    assert did_you_mean("zzz", ["alpha", "beta"]) == "; known: alpha, beta"
    assert did_you_mean("zzz", []) == ""


def test_no_field_is_silently_dropped_by_pydantic() -> None:
    """`Any` nested in models would let a wrong type through: every annotation is a known kind."""
    for name, model in contracts().items():
        for field, info in model.model_fields.items():
            assert info.annotation is not None, f"{name}.{field}"
            assert not (get_origin(info.annotation) is type and issubclass(get_args(info.annotation)[0], BaseModel))


def test_import_is_light() -> None:
    """No torch, ray, numpy or pyarrow behind `import schemas`."""
    heavy = "{'torch', 'ray', 'numpy', 'pyarrow'}"
    code = f"import sys, schemas.registry as r; r.contracts(); print(sorted({heavy} & set(sys.modules)))"
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]", f"after {time.monotonic() - started:.1f} s"


def test_bounds_by_temperature_are_read_as_people_write_them() -> None:
    assert Requirements.model_validate({"full_kl": {2: 0.01, 4.0: 0.1}}).full_kl == {"2": 0.01, "4": 0.1}
    with pytest.raises(ValidationError, match="'1', '2' or '4'"):
        Requirements.model_validate({"full_kl": {3: 0.01}})
