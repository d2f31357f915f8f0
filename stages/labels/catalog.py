"""What a store holds, as text for people. Everything foreign is shown as printable characters only."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.encodings import Encoding
from schemas.errors import ContractError, StoreError
from schemas.labels import LAYOUT, SetManifest, Tag
from stages.labels.statistics import label_bytes
from stages.labels.store import Store
from stages.places import Place

_SHOWN = 120
"""Characters of a foreign text that are shown."""


def list_sets(place: Place) -> tuple[list[SetManifest], dict[str, str]]:
    """Manifests of a store's finished sets, and by fingerprint what is wrong with those that cannot be read.

    One listing and one small read per set.
    """
    store = Store.open(place)
    found: list[SetManifest] = []
    damaged: dict[str, str] = {}
    for fingerprint in place.names("sets"):
        try:
            if (manifest := store.manifest(fingerprint)) is not None:
                found.append(manifest)
        except (ContractError, StoreError) as error:
            damaged[fingerprint] = escaped(str(error))
    return found, damaged


def card(manifest: SetManifest, tags: Mapping[str, Tag] | None = None) -> dict[str, str]:
    """The label card: what stands in `set.json`, then what its tags say, by heading, each one printable line."""
    statistics, schema = manifest.statistics, manifest.label_schema
    names = manifest.origin.names
    labels, exact = max(statistics.labels, 1), max(statistics.fidelity_rows, 1)
    size = label_bytes(manifest)
    lines = {
        "fingerprint": manifest.fingerprint,
        "root digest": manifest.digest,
        "labels": f"{statistics.labels:,} of {manifest.rows:,} samples in {manifest.units:,} units",
        "classes": f"{len(schema.classes)}: {', '.join(schema.classes)}",
        "encoding": encoding_text(schema.encoding),
        "size": f"{size / labels:,.6g} bytes a label, {size:,} bytes",
        "teacher": ", ".join(filter(None, (names.teacher, names.model, manifest.teacher))),
        "trained on": _trained_on(manifest),
        "samples": ", ".join(filter(None, (names.domain, manifest.samples))),
        "mean confidence": f"{statistics.confidence_sum / labels:.4f}",
        "mean entropy": f"{statistics.entropy_sum / labels:.4f} nats",
        "unmapped mass": f"{statistics.unmapped_mass_sum / labels:.4f}",
        "fidelity": f"measured on {statistics.fidelity_rows:,} labels",
        "top-1 agreement": f"{statistics.top1_agreements / exact:.4f}",
        "largest error": f"{statistics.largest_error:.3g}",
        **{
            f"KL at T = {temperature}": f"{total / exact:.3g} nats in full, "
            f"{statistics.bucket_kl_sums.get(temperature, 0.0) / exact:.3g} in buckets"
            for temperature, total in statistics.full_kl_sums.items()
        },
        "views": _views(manifest),
        "made by": f"crossdistill {manifest.provenance.package}, store layout {LAYOUT}",
    }
    if manifest.parents:
        lines["parents"] = ", ".join(manifest.parents)
    for name, tag in (tags or {}).items():
        said = {"publisher": tag.publisher, "licence": tag.licence, "notes": tag.notes}
        figures = {figure: f"{value:.4g}" for figure, value in tag.quality.items()}
        if tag.signature is not None:
            figures["signed by"] = tag.signature.key
        lines[f"tag {name}"] = "; ".join(f"{what}: {text}" for what, text in (said | figures).items() if text) or "-"
    return {printable(heading): printable(line) for heading, line in lines.items()}


def escaped(text: str) -> str:
    """Foreign text on one line, however long."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(text: str) -> str:
    """Foreign text on one line: what does not print is escaped, what is long is cut."""
    shown = escaped(text)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"


def _trained_on(manifest: SetManifest) -> str:
    names, seen = manifest.origin.names, manifest.origin.seen
    rows = "rows not known" if seen is None else f"{seen.rows:,} rows" + ("" if seen.whole else " and others not known")
    return ": ".join(filter(None, (", ".join(names.trained_on), rows)))


def _views(manifest: SetManifest) -> str:
    views = manifest.views
    settings = ", ".join(f"{name} {value}" for name, value in views.settings.items())
    return "the samples themselves" if views.count == 1 else f"{views.count}, seed {views.seed}: {settings}"


def encoding_text(encoding: Encoding) -> str:
    """An encoding in a few words: its tag and the settings that are set."""
    settings = encoding.dump()
    tag = str(settings.pop("kind"))
    return " ".join([tag, *(f"{name} {_plain(value)}" for name, value in settings.items() if value is not None)])


def _plain(value: object) -> str:
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)
