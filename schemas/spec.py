"""The spec: one file that names domains, teachers, label sets and students, and how they hang together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from schemas.base import Classes, Contract, Digest, Document, Fraction, Name, Part
from schemas.encodings import Dense, Encoding
from schemas.errors import SpecError, did_you_mean
from schemas.labels import AskedWeights, Ids, Requirements, Space, Views
from schemas.rounds import Rounds
from schemas.training import Training

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Storage(Contract):
    """Where object storage answers. Secrets come from the environment or the usual config files, never from here."""

    endpoint_url: str | None = None
    """URL of an S3-compatible server; none for AWS itself."""
    region: str | None = None
    """Region name of the bucket."""


SOURCE_KINDS = ("example", "parquet", "csv", "jsonl", "image_folder", "arrays", "voc", "coco", "boxes", "images")


class Source(Contract):
    """Where a domain's samples come from: exactly one of the kinds, as one place or one place per split."""

    example: str | None = None
    """Name of an example data set that ships in a package."""
    parquet: str | dict[SplitName, str] | None = None
    """Parquet file or directory of files (path or fsspec URI)."""
    csv: str | dict[SplitName, str] | None = None
    """CSV file with a header; image paths in it are relative to it."""
    jsonl: str | dict[SplitName, str] | None = None
    """JSON Lines file; image paths in it are relative to it."""
    image_folder: str | dict[SplitName, str] | None = None
    """Folder of images: one subfolder a class, or flat beside `labels`."""
    arrays: str | dict[SplitName, str] | None = None
    """`.npz` file (uncompressed or compressed) with one array a column."""
    voc: str | dict[SplitName, str] | None = None
    """Folder of Pascal VOC's XMLs of boxes, with the pictures beside them or in `JPEGImages`."""
    coco: str | dict[SplitName, str] | None = None
    """COCO's JSON of boxes; image paths in it are relative to it."""
    boxes: str | dict[SplitName, str] | None = None
    """CSV of boxes in pixels: `image_path` (relative to it), `xmin`, `ymin`, `xmax`, `ymax`, `label`."""
    images: str | dict[SplitName, str] | None = None
    """Folder of pictures, beside `masks`."""
    masks: str | dict[SplitName, str] | None = None
    """With `images`: folder of their masks, PNGs of class numbers under the same names, for the same splits."""
    labels: str | None = None
    """With `image_folder`: CSV of two columns, file (relative to the folder) and class."""
    storage: Storage = Storage()
    """Where object storage answers, for this source alone."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in SOURCE_KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a source has exactly one of {', '.join(SOURCE_KINDS)}; found {given or 'none'}")
        if self.labels is not None and given != ["image_folder"]:
            raise ValueError("`labels` goes with `image_folder` only")
        if (self.images is None) != (self.masks is None) or self._splits(self.images) != self._splits(self.masks):
            raise ValueError("`images` and `masks` go together: a folder each, or one of each for the same splits")
        return self

    @staticmethod
    def _splits(value: str | dict[SplitName, str] | None) -> set[SplitName] | None:
        return set(value) if isinstance(value, dict) else None

    @property
    def kind(self) -> str:
        """The kind that is given."""
        return next(kind for kind in SOURCE_KINDS if getattr(self, kind) is not None)

    @property
    def places(self) -> dict[str, str]:
        """URI by split; under '' where one place is to be split."""
        value = getattr(self, self.kind)
        return {"": value} if isinstance(value, str) else dict(value)


class Split(Contract):
    """Shares of a domain, drawn by a seeded hash of `content_id`: duplicates always fall in one split."""

    train: Fraction = 0.0
    """Share that is trained on."""
    validation: Fraction = 0.0
    """Share that choices are made on (within the label budget)."""
    test: Fraction = 0.0
    """Share that only the final evaluation reads."""
    seed: NonNegativeInt = 0
    """Seed of the hash."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares of a split add up to 1, not {total:g}")
        return self


class LabelBudget(Contract):
    """How many true labels of the domain a project may use, for training and for validation."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"seed"})
    """What is drawn has a seed of its own (`BudgetInputs.seed`)."""

    train: NonNegativeInt
    """True labels for training, in rows."""
    validation: NonNegativeInt
    """True labels for every choice that is made (selection, early stopping, rounds), in rows."""
    draw: Literal["blind", "class-balanced"] = "blind"
    """`blind` draws by hash alone; `class-balanced` looks at the truth to draw alike from each class."""
    without: tuple[str, ...] = ()
    """Classes of which no true label may be used, as where nobody has labelled them; a teacher may know them."""
    seed: NonNegativeInt | None = None
    """The one draw that all seeds use; left out: each has its own. A teacher that learned from the budget has its draw,
    and so has whoever learns from it."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, Mapping | LabelBudget):
            return value
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError("a label budget is a whole number n for n + n, or {train: n, validation: n}")
        return {"train": value, "validation": value}

    def __str__(self) -> str:
        without = f" without {', '.join(self.without)}" if self.without else ""
        return f"{self.train} + {self.validation}{without}"

    def left_out(self, classes: Sequence[str], where: str = "label_budget") -> list[int]:
        """Class numbers of `without`. Raises SpecError naming those that `classes` does not have."""
        unknown = [
            f"{where}.without: no class is called '{name}'{did_you_mean(name, list(classes))}"
            for name in self.without
            if name not in classes
        ]
        if unknown:
            raise SpecError(*unknown)
        return [classes.index(name) for name in self.without]


class Domain(Contract):
    """A set of samples with one distribution."""

    from_: Source = Field(alias="from")
    """Where the samples come from."""
    split: Split | None = None
    """Shares to draw; left out where the source has one place per split."""
    label_budget: LabelBudget | None = None
    """True labels that may be used; left out: all of train and validation. A number n means n + n."""
    columns: dict[str, str] = {}
    """Column of the source by role (`sample_id`, `label`, and the task's own such as `image`; of a task that asks
    several questions each question in the place of `label`)."""
    classes: Classes | None = None
    """Class names in order; left out: the sorted values of the label column."""
    prepare: dict[str, Any] = {}
    """The task's own settings for bringing this domain's samples into form (such as a centre crop)."""
    on_bad_row: Literal["refuse", "quarantine"] = "refuse"
    """Bad rows end the ingest, or are set aside in a file and counted."""
    shard_rows: PositiveInt = 2048
    """Samples per packed shard; also the unit of labelling, of resuming and of sharing."""


class Adapt(Contract):
    """Carrying a teacher over to a target without truth."""

    method: Literal["batch-norm"] = "batch-norm"
    """`batch-norm` re-estimates the normalisation statistics (AdaBN, Li et al. 2016)."""
    domain: Name
    """The target; only inputs of its train split are read."""


class Teacher(Contract):
    """A model that labels: trained here, given with its weights, or made from another teacher."""

    domains: tuple[Name, ...] = ()
    """Domains to train on."""
    model: Part | None = None
    """The task's short name, `timm/NAME`, `torchvision/NAME`, or `package.module:factory`."""
    training: Training = Training()
    """How it is trained."""
    seed: NonNegativeInt = 0
    """Seed of initialisation and of the order of samples."""
    weights: str | None = None
    """Given weights (safetensors, or a state dict of tensors): the teacher is not trained."""
    preprocessing: dict[str, Any] = {}
    """The task's own settings for how this model wants its input (size, mean, std, channel order)."""
    classes: Classes | None = None
    """Classes of a given model, in the order of its outputs; left out: those of the target."""
    class_map: dict[str, str] = {}
    """Target class by own class, many to one; classes left out are unmapped, and their mass is reported."""
    from_: Name | None = Field(default=None, alias="from")
    """Another teacher that this one is made from."""
    adapt: Adapt | None = None
    """How it is made from the other."""
    student: Name | None = None
    """A student that is the teacher now, in what it became with `seed`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.from_ is not None:
            if self.adapt is None:
                raise ValueError("`from` needs `adapt`, which says how the teacher is made from the other")
            extra = sorted(self.model_fields_set - {"from_", "adapt"})
            if extra:
                raise ValueError(f"a teacher made `from` another takes only `adapt`, not {', '.join(extra)}")
            return self
        if self.student is not None:
            extra = sorted(self.model_fields_set - {"student", "seed"})
            if extra:
                raise ValueError(f"a teacher that was a `student` takes only its `seed`, not {', '.join(extra)}")
            return self
        if self.adapt is not None:
            raise ValueError("`adapt` needs `from`, the teacher to adapt")
        if self.model is None:
            raise ValueError("a teacher has a `model`, is made `from` another, or was a `student`")
        factory = ":" in self.model.name
        if not self.domains and self.weights is None and not factory:
            raise ValueError("a teacher has `domains` to train on, given `weights`, or is made `from` another")
        if self.weights is not None and self.domains:
            raise ValueError("a teacher with given `weights` is not trained: leave out `domains`")
        return self


class Labels(Contract):
    """What is said about one domain: by a teacher that is asked here, by several together, or in somebody's store."""

    teacher: Name | None = None
    """The teacher that labels, where it is asked here."""
    domain: Name | None = None
    """The domain that is labelled, all of its rows; left out only with `fuse`, where the sets name it."""
    fuse: tuple[Name, ...] = ()
    """Label sets that become one, where several teachers speak together."""
    weights: AskedWeights | None = None
    """With `fuse`: a number for each set, `confidence` (each label's own largest probability), or `selection`: each
    student weighs the sets by what they are worth on its own validation budget, and what is stored is their even mean;
    left out: alike."""
    space: Space = "probability"
    """With `fuse`: average probabilities, or their logarithms."""
    ids: Ids = "intersection"
    """With `fuse`: each set speaks of every row (`intersection`), or all of them together do (`union`)."""
    from_: str | None = Field(default=None, alias="from")
    """Store that holds the labels already; with `tag` or `fingerprint`, and without a teacher."""
    tag: str | None = None
    """Name of the set in that store (`NAME`, or `NAME@v3` for an entry of its history)."""
    fingerprint: Digest | None = None
    """Fingerprint of the set in that store, in full."""
    encoding: Encoding = Dense()
    """How a label is kept."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision that the teacher computes in, on every device."""
    batch_size: PositiveInt = 256
    """Rows per forward pass; batches never span shards."""
    views: Views = Views()
    """Augmented readings of each sample that are labelled as well; students then see the very pixels of the teacher."""
    difficulty: tuple[Literal["entropy", "margin"], ...] = ()
    """How hard each label is by the teacher's own word, stored beside it."""
    features: Literal["float16", "float32"] | None = None
    """Stores what the teacher's head reads beside each label, in this type: for methods that learn from features."""
    require: Requirements = Requirements()
    """How exact the set must be; it is in no fingerprint."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.fuse:
            return self._fused()
        if extra := sorted(self._chosen & {"weights", "space", "ids"}):
            raise ValueError(f"{', '.join(extra)} goes with `fuse`, the label sets that become one")
        if self.domain is None:
            raise ValueError("labels name the `domain` that they speak of")
        if self.from_ is None:
            if self.teacher is None:
                raise ValueError("labels have a `teacher` to ask, or come `from` a store")
            if self.tag is not None or self.fingerprint is not None:
                raise ValueError("`tag` and `fingerprint` go with `from`, the store that holds the set")
            if (self.views.count > 1) != bool(self.views.settings):
                raise ValueError(
                    "`views` has a `count` above 1 and `settings` that they are drawn by (the task's augmentation "
                    "settings, such as {crop: [0.5, 1], flip: true}); view 0 is the sample itself"
                )
            return self
        if (self.tag is None) == (self.fingerprint is None):
            raise ValueError("labels `from` a store are named by `tag` or by `fingerprint`, one of them")
        extra = sorted(self.model_fields_set - {"from_", "tag", "fingerprint", "domain", "require"})
        if extra:
            raise ValueError(f"labels `from` a store are made already: leave out {', '.join(extra)}")
        return self

    @property
    def _chosen(self) -> set[str]:
        """Fields that are not as they are left out."""
        return {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}

    def _fused(self) -> Self:
        fields = {"fuse", "weights", "space", "ids", "domain", "encoding", "difficulty", "require"}
        if extra := sorted(name.rstrip("_") for name in self._chosen - fields):
            raise ValueError(f"labels that `fuse` others ask nobody: leave out {', '.join(extra)}")
        sets = len(self.fuse)
        if len(set(self.fuse)) < max(sets, 2):
            raise ValueError("`fuse` names two label sets or more, each once")
        if isinstance(self.weights, tuple) and len(self.weights) != sets:
            raise ValueError(f"{sets} label sets have {sets} weights, not {len(self.weights)}")
        if self.weighed_by_students and (extra := sorted(self._chosen & {"difficulty", "ids"})):
            raise ValueError(
                f"with `weights: selection` a student reads every set for each row, and mixes them then: leave out "
                f"{', '.join(extra)}"
            )
        return self

    @property
    def weighed_by_students(self) -> bool:
        """Whether each student reads the sets that are fused, and weighs them itself."""
        return self.weights == "selection"


def _seeds(value: Any) -> Any:
    if isinstance(value, list | tuple) and value:
        return tuple(dict.fromkeys(value))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("`seeds` is how many (a whole number from 1), or which (a list such as [0, 3])")
    return tuple(range(value))


Baseline = Literal["no-teacher", "source-only", "source-finetuned"]

Seeds = Annotated[
    tuple[NonNegativeInt, ...],
    BeforeValidator(_seeds, json_schema_input_type=PositiveInt | tuple[NonNegativeInt, ...]),
]
"""Seeds, each once; a number n stands for 0 to n - 1."""


def _method(value: Any) -> Any:
    return {"name": "combined", "parts": list(value)} if isinstance(value, list | tuple) else value


MethodPart = Annotated[Part, BeforeValidator(_method, json_schema_input_type=Part | tuple[Part, ...])]
"""A method with its settings; a list of them, each with a `weight`, stands for their weighted sum."""


class Halving(Contract):
    """Successive halving (Jamieson and Talwalkar 2016): points of a grid whose selection quality is poor end early."""

    rungs: Annotated[int, Field(ge=2)] = 3
    """Lengths at which the points are compared; the last one is the whole training."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the points that goes on from each rung; also the share of a rung's steps that the one before it has."""


class Point(Contract):
    """Which point of which grid a student is."""

    grid: Name
    """Name of the student that has the grid."""
    at: dict[str, Any]
    """The point's values by path."""


class Soup(Contract):
    """Students whose weights become one student's: their mean."""

    of: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Students of one model that learn from one label set; the name of a grid stands for all of its points."""
    how: Literal["uniform", "greedy"] = "greedy"
    """`uniform` takes all of them; `greedy` the best by selection quality, and then each that does not lower it."""


class Student(Contract):
    """A small model for the target."""

    model: Part
    """The task's short name, `timm/NAME`, `torchvision/NAME`, or `package.module:factory`."""
    labels: Name | None = None
    """The label set that it learns from; left out only with method `none`."""
    domain: Name | None = None
    """The target, where no label set names it."""
    method: MethodPart = Part(name="soft")
    """How a training step uses the labels; a list of methods, each with its `weight`, is their weighted sum."""
    calibrate: bool = False
    """Whether its teacher's labels are read at the temperature that fits its own validation budget."""
    training: Training = Training()
    """How it is trained; the arms without a teacher are trained alike."""
    seeds: Seeds = (0,)
    """How many seeds (0, 1, …) or which; a seed sets initialisation and the draw of the label budget."""
    weights: str | None = None
    """Given weights that it and its baselines start from; a head of another size starts anew."""
    start: Name | None = None
    """A teacher whose weights it and its baselines start from; of the same model."""
    pretrain: bool = False
    """Whether it starts, seed by seed, from itself trained on the source: its `source-only` arm, as `source-finetuned`
    does."""
    baselines: tuple[Baseline, ...] | None = None
    """What it is compared with; left out: as `evaluation` says."""
    baseline_rates: dict[Baseline, PositiveFloat] = {}
    """Learning rate of an arm without a teacher, where that of `training` does not suit it: few labels want a gentle
    one, and a gain counts against a baseline at its best."""
    preprocessing: dict[str, Any] = {}
    """The task's own settings for how this model wants its input."""
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    """Values by path (`method.temperature: [1, 2, 4]`): one student for each combination, as if each were written."""
    halving: Halving | None = None
    """Ends poor points of the grid early, by their selection quality alone; left out: all are trained to their end."""
    cohort: Name | Literal[False] | None = None
    """Trains with the students that name the same cohort, or by itself (`alone` or false); left out: with all that
    read the same stream. It changes no result."""
    point: Point | None = None
    """Set where a grid becomes its points; refused in a file."""
    soup: Soup | None = None
    """Set where one of `soups` becomes a student, the rest being that of its first ingredient; refused in a file."""

    @model_validator(mode="after")
    def _halving_of_a_grid(self) -> Self:
        if self.halving is not None and not self.grid and self.point is None:
            raise ValueError("`halving` compares the points of a `grid`: give one, or leave it out")
        if self.start is not None and self.weights is not None:
            raise ValueError("a student starts from given `weights` or from a teacher's (`start`): leave out one")
        if self.pretrain and self.halving is not None:
            raise ValueError("`halving` ends points before their own training on the source: leave out `pretrain`")
        return self


class Evaluation(Contract):
    """What is measured, and against what."""

    baselines: tuple[Baseline, ...] = ("no-teacher", "source-only", "source-finetuned")
    """The same student without a teacher, trained on the source alone, or on the source and then the budget."""
    metrics: tuple[str, ...] = ()
    """The task's metrics, the first one leading; empty for all that the task has."""
    bootstrap: PositiveInt = 2000
    """Draws of the bootstrap over seeds and test samples."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level of every interval."""
    cost: bool = True
    """Whether size, speed and memory are measured."""


class Resources(Contract):
    """Where and how wide the work runs: never part of a fingerprint."""

    mode: Literal["ray", "local"] = "ray"
    """`ray` runs stages on a cluster (started here if none is named); `local` in this process, without Ray."""
    address: str | None = None
    """Ray cluster to join; left out: RAY_ADDRESS, else one on this machine."""
    workers: PositiveInt = 1
    """Data-parallel workers of a teacher's training, and the most teachers that label at once."""
    data_parallel: bool = False
    """Whether so many workers share each batch of the students too, for large ones: results are then equal to those of
    one worker to rounding and dropout, not to the bit. Left out: students are dealt over the workers there is room for.
    """
    cpus_per_worker: PositiveFloat = 1
    """CPU cores of a worker, and its threads."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    """Accelerators of a worker; left out: one where the cluster has any, else none."""


class Spec(Document):
    """One project: what is to be made, from what."""

    name: Name
    """Name of the project; also of its workspace beside the spec."""
    task: Part
    """The kind of problem, with its settings."""
    domains: dict[Name, Domain]
    """Domains by name."""
    teachers: dict[Name, Teacher] = {}
    """Teachers by name."""
    labels: dict[Name, Labels] = {}
    """Label sets by name."""
    students: dict[Name, Student] = {}
    """Students by name."""
    soups: dict[Name, Soup] = {}
    """Students that are made of others' weights, by name."""
    rounds: Rounds | None = None
    """Rounds over all students, each seed a chain of its own; left out: labels are made once, and students trained."""
    evaluation: Evaluation = Evaluation()
    """What is measured."""
    store: str | None = None
    """Place of the label store; left out: inside the workspace."""
    storage: Storage = Storage()
    """Where object storage answers, for workspace and store."""
    resources: Resources = Resources()
    """Where and how wide the work runs."""

    def domain_of(self, labels: str) -> str | None:
        """The domain that a label set speaks of: named by it, or by the first set that it fuses; None if none is."""
        passed: set[str] = set()
        while labels in self.labels and labels not in passed:
            passed.add(labels)
            found = self.labels[labels]
            if found.domain is not None or not found.fuse:
                return found.domain
            labels = found.fuse[0]
        return None

    def where(self, student: str) -> str:
        """Where a student stands in the file: the points of a grid where their grid does, a soup where its first is."""
        if (soup := self.students[student].soup) is not None:
            return self.where(soup.of[0])
        point = self.students[student].point
        return f"students.{point.grid if point else student}"
