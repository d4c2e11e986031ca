"""The spec: what a user asks for in `pipeline.yaml`, and which of its parts exclude one another.

Unknown fields are errors, and every error names the field. The parts: `spec_train`, `spec_serve` and, the smaller ones,
`spec_parts`; what their fields may hold: `spec_values`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ValidationError, ValidationInfo, model_validator

from ebb import catalog, spec_text
from ebb.catalog import neo
from ebb.spec_parts import CarbonSpec, CompileSpec, CompressSpec, DataSpec, FeaturesSpec, ProcessSpec, RetrainSpec
from ebb.spec_serve import ServeSpec
from ebb.spec_stop import TORCH_COMPILE, TRAINING_COMPILER, TRAINING_COMPILER_MACHINES
from ebb.spec_train import ENTRY_POINT, RANGES_EXAMPLE, TrainSpec
from ebb.spec_values import (
    CLASSIFICATION_METRICS,
    CUSTOM,
    ENCODER,
    IMAGES,
    NEO,
    NETWORK_RUNGS,
    NEURON,
    NEURON_TARGETS,
    REGRESSION,
    REGRESSION_METRICS,
    SPARK,
    TASKS,
    TEXTS,
    USER_TEXT,
    Part,
    one_of,
)

FILE_NAME = "pipeline.yaml"
_LATER = {
    "retrain": ("schedule", "drift", "deadline"),  # drift without capture: nobody would know of it
    "carbon": ("signal",),
}


class PipelineSpec(Part):
    """What the user asks for, with every default filled in."""

    task: Annotated[str | None, one_of(TASKS)] = None
    data: DataSpec = DataSpec()
    process: ProcessSpec = ProcessSpec()
    features: FeaturesSpec = FeaturesSpec()
    train: TrainSpec = TrainSpec()
    compress: CompressSpec = CompressSpec()
    compile: CompileSpec = CompileSpec()
    serve: ServeSpec = ServeSpec()
    retrain: RetrainSpec = RetrainSpec()
    carbon: CarbonSpec = CarbonSpec()

    @property
    def asks_for_script(self) -> list[str]:
        """Return the fields that only a training script of the user's own can heed."""
        train = self.train
        return [
            name
            for name, given in (
                ("source", train.source is not None),
                ("entry_point", train.entry_point != ENTRY_POINT),
                ("hyperparameters", bool(train.hyperparameters)),
                ("checkpoints", train.checkpoints),
                ("distributed", train.distributed),
                ("stop", train.stop is not None),
                ("debugger", train.debugger is not None),
            )
            if given
        ]

    @model_validator(mode="after")
    def _spot_keeps_its_work(self, info: ValidationInfo) -> "PipelineSpec":
        """Refuse spot capacity that a user asks for and that would lose a script's work; the default asks for none."""
        train = self.train
        asked = info.context == USER_TEXT and "spot" in train.model_fields_set and train.spot
        if asked and (self.task == CUSTOM or self.asks_for_script) and not train.checkpoints:
            raise spec_text.misplaced(
                ("train", "spot"),
                "spot capacity can be taken back at any moment, and a script without checkpoints then begins anew; let "
                "it write to SM_CHECKPOINT_DIR and read from there when it starts, and say checkpoints: true; or write "
                "spot: false",
            )
        return self

    @model_validator(mode="after")
    def _instances_share_a_network(self) -> "PipelineSpec":
        """Refuse several machines for what only one of them could do."""
        train = self.train
        if train.instances == 1:
            return self
        place = ("train", "instances")
        if (self.task == CUSTOM or self.asks_for_script) and not train.distributed:
            raise spec_text.misplaced(
                place,
                "a training script of your own runs on one machine; write instances: 1, or, where it calls "
                "init_process_group and leaves its model on rank 0, distributed: true",
            )
        if train.rungs is not None and not set(train.rungs) & set(NETWORK_RUNGS):
            raise spec_text.misplaced(
                place,
                f"several machines train networks only, and train.rungs names none; add one of "
                f"{', '.join(NETWORK_RUNGS)}, or write instances: 1",
            )
        named = catalog.instance(train.instance)
        if named and named.accelerator and named.accelerator.kind == "neuron":
            raise spec_text.misplaced(
                place, f"networks are not shared between machines of {train.instance}; write another instance, or 1"
            )
        if train.tune is not None:
            raise spec_text.misplaced(
                place, "the fits of a search take one machine each; write train.tune or instances, not both"
            )
        return self

    @model_validator(mode="after")
    def _compiler_has_its_target(self) -> "PipelineSpec":
        """Refuse a target that the compiler does not know; which Region has it is for the plan to say."""
        engine, target = self.compile.engine, self.compile.target
        known = {NEO: neo.devices(), NEURON: NEURON_TARGETS}.get(engine)
        place = ("compile", "target")
        if known is None and target is not None:
            what = f"only engine: {NEO} and engine: {NEURON} compile for one; write one of them, or remove it"
            raise spec_text.misplaced(place, what)
        if known is not None and target not in known:
            told = f"{target} is none of {engine}'s" if target else f"engine: {engine} compiles for one kind of machine"
            raise spec_text.misplaced(place, f"{told}; write one of: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _fields_fit_task(self) -> "PipelineSpec":
        task, data, train = self.task, self.data, self.train
        if self.process.engine == SPARK and (task in (IMAGES, TEXTS, CUSTOM) or train.source is not None):
            what = "spark processes tables that are learned as tables, and nothing else; remove it, or write auto"
            raise spec_text.misplaced(("process", "engine"), what)
        if data.input is not None and data.input == data.target:
            raise spec_text.misplaced(("data", "input"), "it is data.target too; name two different columns")
        if task == CUSTOM or train.source is not None:
            self._leave_to_script()
        self._search_fits_task()
        if task is None:
            return self
        fitting = () if task == CUSTOM else REGRESSION_METRICS if task == REGRESSION else CLASSIFICATION_METRICS
        if train.metric and train.metric not in fitting:
            what = f"{train.metric} does not fit {task}; use {', '.join(fitting)}"
            raise spec_text.misplaced(("train", "metric"), what)
        if data.input is not None and task not in (IMAGES, TEXTS):
            what = f"{task} reads all columns; remove it, or write task: {TEXTS} or {IMAGES}"
            raise spec_text.misplaced(("data", "input"), what)
        if task != CUSTOM and self.asks_for_script:
            what = f"it is for a training script of your own; remove it, or write task: {CUSTOM}"
            raise spec_text.misplaced(("train", self.asks_for_script[0]), what)
        return self

    @model_validator(mode="after")
    def _watched_from_one_side(self) -> "PipelineSpec":
        """Refuse two who would stop the same job, and a compiler that cannot be had."""
        train = self.train
        if train.stop is not None and train.tune is not None:
            what = "a search ends its trials itself; remove it, or train.tune"
            raise spec_text.misplaced(("train", "stop"), what)
        if train.debugger is not None and train.tune is not None:
            raise spec_text.misplaced(
                ("train", "debugger"), "a search has no rules of its own; remove it, or train.tune"
            )
        scripted = self.task == CUSTOM or bool(self.asks_for_script)
        if train.compiler == TORCH_COMPILE and scripted:
            what = "a script of your own calls torch.compile itself; remove it"
            raise spec_text.misplaced(("train", "compiler"), what)
        if train.compiler == TRAINING_COMPILER:
            if not scripted:
                what = f"Ebb's recipes are not written for it; write {TORCH_COMPILE}, or task: {CUSTOM}"
                raise spec_text.misplaced(("train", "compiler"), what)
            if train.tune is not None:
                what = "the trials of a search are not compiled; remove it, or train.tune"
                raise spec_text.misplaced(("train", "compiler"), what)
            if not train.instance.startswith(TRAINING_COMPILER_MACHINES):
                what = (
                    "SageMaker Training Compiler knows the GPUs of P3, P4d, G4dn and G5 only; name one in "
                    "train.instance, ml.g5.xlarge for one, or remove it"
                )
                raise spec_text.misplaced(("train", "compiler"), what)
        return self

    @model_validator(mode="after")
    def _capture_has_an_endpoint(self) -> "PipelineSpec":
        """Refuse to note the requests of a model that takes none."""
        if self.retrain.capture is not None and self.serve.kind == "batch":
            what = "a batch model has no endpoint whose requests could be noted; remove it, or write another serve.kind"
            raise spec_text.misplaced(("retrain", "capture"), what)
        return self

    @model_validator(mode="after")
    def _encoder_fits(self) -> "PipelineSpec":
        """Refuse an encoder that nothing could be read by, and its recipe without one."""
        train, place = self.train, ("train", "pretrained")
        if train.pretrained is None:
            if ENCODER in (train.rungs or ()):
                what = f"{ENCODER} starts from public weights; write train.pretrained, or leave it out"
                raise spec_text.misplaced(("train", "rungs"), what)
            return self
        if self.task != TEXTS:
            raise spec_text.misplaced(place, f"a pretrained encoder reads texts; write task: {TEXTS}, or remove it")
        if train.rungs is not None and ENCODER not in train.rungs:
            raise spec_text.misplaced(
                place, f"train.rungs leaves it out; add {ENCODER} there, or remove one of the two"
            )
        if train.tune is not None and train.tune.jobs > 1:
            what = "a search in jobs of its own tries other recipes; write tune: {jobs: 1}, or remove it"
            raise spec_text.misplaced(place, what)
        return self

    @model_validator(mode="after")
    def _features_fit(self) -> "PipelineSpec":
        """Refuse what features of another project have decided already, and publishing what is no table."""
        data = self.data
        if data.features is not None:
            taken = {"uri": data.uri, "target": data.target, "input": data.input, "group": data.group}
            for name, given in (*taken.items(), ("mode", data.mode if data.mode != "replace" else None)):
                if given is not None:
                    what = f"the features of {data.features} come with it as it is; remove it, or data.features"
                    raise spec_text.misplaced(("data", name), what)
            if self.features.wanted:
                what = f"these are features of {data.features}, published already; remove it"
                raise spec_text.misplaced(("features", "publish" if self.features.publish else "share"), what)
        other = self.task in (IMAGES, TEXTS, CUSTOM) or self.train.source is not None
        if other and (data.features is not None or self.features.wanted):
            place = (
                ("data", "features") if data.features else ("features", "publish" if self.features.publish else "share")
            )
            raise spec_text.misplaced(place, "features are those of tables; remove it")
        return self

    def _search_fits_task(self) -> None:
        """Refuse a search that does not know what of a script to turn, and ranges where there is no script."""
        tune, scripted = self.train.tune, self.task == CUSTOM or self.train.source is not None
        if tune is None:
            return
        if scripted and not tune.ranges:
            raise spec_text.misplaced(
                ("train", "tune"), f"what of a script may be turned only you know; {RANGES_EXAMPLE}"
            )
        known = self.task or ("tables" if self.data.features else None)
        if known and not scripted:
            for name in tune.asks_for_script:
                what = f"the knobs and metrics of {known} are known; remove it, or write task: {CUSTOM}"
                raise spec_text.misplaced(("train", "tune", name), what)

    def _leave_to_script(self) -> None:
        """Refuse what a training script of the user's own decides itself."""
        for part, name, given in (
            ("train", "metric", self.train.metric),
            ("train", "target", self.train.target),
            ("train", "epochs", self.train.epochs),
            ("train", "rungs", self.train.rungs),
            ("data", "target", self.data.target),
            ("data", "input", self.data.input),
        ):
            if given is None:
                continue
            what = (
                "a custom model is judged by the metric that its evaluation.json names; remove it"
                if name == "metric"
                else "a custom training script decides that itself; remove it, or pass it in train.hyperparameters"
            )
            raise spec_text.misplaced((part, name), what)

    def not_acted_on(self) -> list[str]:
        """Return the fields that ask for something else than the default and that this version does nothing about."""
        asked, usual = self.resolved(), PipelineSpec().resolved()
        return [
            f"{part}.{name}"
            for part, names in _LATER.items()
            for name in names
            if asked[part][name] != usual[part][name] and not (name == "drift" and self.retrain.capture)
        ]

    def resolved(self) -> dict[str, Any]:
        """Return the spec as JSON: every default filled in, durations in seconds, masses in grams."""
        return self.model_dump(mode="json")


def parse(text: bytes, *, file: str) -> PipelineSpec:
    """Return the spec that a `pipeline.yaml` holds; an empty file asks for the defaults.

    Raises: InvalidSpecError naming the field, its line and what to write instead.
    """
    document = spec_text.load(text, file=file)
    try:
        return PipelineSpec.model_validate(document.value, context=USER_TEXT)
    except ValidationError as error:
        raise spec_text.invalid(error, document, known=_known_fields, file=file) from error


def _known_fields(place: tuple[str | int, ...]) -> list[str]:
    """Return the fields that may stand at a place of the spec."""
    model: Any = PipelineSpec
    for part in place:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)
