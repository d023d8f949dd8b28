"""The schema of every setting, and the identity of a run.

Types, units and ranges stand here; the values stand in `conf/`, so that each default stands once.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from trash_seg.errors import ConfigError


def _check(valid: bool, key: str, value: object, rule: str) -> None:
    """Raises ConfigError naming the key, its value and the rule it breaks. No setting is infinite or NaN."""
    if not valid or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{key}={value}: {rule}")


def _is_number(value: object) -> bool:
    """Finite, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(key: str, value: object, choices: tuple[str, ...]) -> None:
    _check(value in choices, key, value, f"choose one of {', '.join(choices)}")


@dataclass
class EncoderConfig:
    """The backbone."""

    name: str
    """SMP's name, or `tu-` and any timm model."""
    weights: str | None
    """A set of pretrained weights that SMP lists for this encoder; null trains from scratch."""


@dataclass
class DecoderConfig:
    """The segmentation architecture."""

    name: str
    """SMP's class name."""
    options: dict[str, Any]
    """Further keyword arguments of that class, e.g. `decoder_channels`."""


@dataclass
class AugmentationConfig:
    """What happens to a training image, each with its probability in [0, 1]. Validation images are only resized."""

    name: str
    horizontal_flip: float
    vertical_flip: float
    rotate90: float
    """Of turning by a random multiple of 90° (0° among them)."""
    blur_or_distort: float
    """Of either motion blur or optical distortion, each half the time."""
    affine: float
    """Of scaling by 0.8 to 1.25, turning by up to 15° and shifting by up to 6 %."""
    color_jitter: float
    """Of changing brightness, contrast and saturation by up to 20 % and hue by up to 2 %."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "name":
                value = getattr(self, field.name)
                _check(0 <= value <= 1, f"augmentation.{field.name}", value, "a probability lies in [0, 1]")


@dataclass
class OptimizerConfig:
    """`torch.optim.<name>(lr, weight_decay, **options)`."""

    name: str
    lr: float
    """Peak learning rate, > 0."""
    weight_decay: float
    """>= 0."""
    options: dict[str, Any]
    """Further keyword arguments of that class, e.g. `momentum`."""

    def __post_init__(self) -> None:
        _check(self.lr > 0, "optimizer.lr", self.lr, "must be > 0")
        _check(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "must be >= 0")


@dataclass
class SchedulerConfig:
    """The learning rate over the steps of a run, as a factor of `optimizer.lr`."""

    name: str
    """constant, cosine, poly or onecycle."""
    warmup_epochs: float
    """Epochs of linear warm-up from 0, >= 0; part of an epoch is allowed. onecycle warms up by itself."""
    min_factor: float
    """Where cosine and poly end, in [0, 1]."""
    power: float
    """Of poly, > 0."""

    def __post_init__(self) -> None:
        _one_of("scheduler.name", self.name, ("constant", "cosine", "poly", "onecycle"))
        _check(self.warmup_epochs >= 0, "scheduler.warmup_epochs", self.warmup_epochs, "must be >= 0")
        _check(0 <= self.min_factor <= 1, "scheduler.min_factor", self.min_factor, "must lie in [0, 1]")
        _check(self.power > 0, "scheduler.power", self.power, "must be > 0")


@dataclass
class LossConfig:
    """The training loss; the validation loss is the same."""

    name: str
    """cross_entropy, dice, focal, lovasz or ce_dice."""
    class_weights: Any
    """Of cross-entropy: null, one number >= 0 for each class, not all 0, or `balanced` (from the training pixels)."""
    label_smoothing: float
    """Of cross-entropy, in [0, 1)."""
    dice_weight: float
    """Of ce_dice: (1 - w) · cross-entropy + w · dice, w in [0, 1]."""
    focal_gamma: float
    """Of focal, >= 0."""

    def __post_init__(self) -> None:
        _one_of("loss.name", self.name, ("cross_entropy", "dice", "focal", "lovasz", "ce_dice"))
        _check(0 <= self.label_smoothing < 1, "loss.label_smoothing", self.label_smoothing, "must lie in [0, 1)")
        _check(0 <= self.dice_weight <= 1, "loss.dice_weight", self.dice_weight, "must lie in [0, 1]")
        _check(self.focal_gamma >= 0, "loss.focal_gamma", self.focal_gamma, "must be >= 0")
        weights = self.class_weights
        if weights not in (None, "balanced"):
            numbers = isinstance(weights, list) and all(_is_number(w) and w >= 0 for w in weights) and any(weights)
            rule = "give null, balanced, or a list of numbers >= 0, one for each class and not all 0"
            _check(numbers, "loss.class_weights", weights, rule)
            self.class_weights = [float(w) for w in weights]  # 1 and 1.0 make the same run
        only_ce = self.name in ("cross_entropy", "ce_dice")
        _check(
            only_ce or weights is None, "loss.class_weights", weights, f"loss.name={self.name} takes no class weights"
        )
        rule = f"loss.name={self.name} takes no label smoothing"
        _check(only_ce or self.label_smoothing == 0, "loss.label_smoothing", self.label_smoothing, rule)


@dataclass
class DataConfig:
    """A dataset: where it lies, how it is split, and what its classes are."""

    name: str
    format: str
    """coco (annotation files), folder (images beside index masks) or toy (made on first use)."""
    root: str | None
    """The folder that the files and image names below are relative to. No part of a run's identity."""
    train: str | None
    """Annotation file (coco) or sub-folder (folder) of the training split."""
    val: str | None
    test: str | None
    annotations: str | None
    """One file for all splits, instead of `train` and `val`; split by `split_seed` and the fractions, or by folds."""
    val_fraction: float
    """Share of the images of `annotations` for validation, in (0, 1)."""
    test_fraction: float
    """Share kept for testing, in [0, 1). With folds there is none: every image validates once."""
    split_seed: int
    """>= 0."""
    fold: int | None
    """With `num_folds`: the fold of `annotations` that validates, 0 to num_folds - 1."""
    num_folds: int | None
    """>= 2, or null for no folds."""
    classes: list[str]
    """Names in the order of their index; index 0 is the background."""
    class_of: dict[str, str | None]
    """Annotation category → class. A category with the name of a class needs no entry; null leaves it out."""
    overlap: str
    """Where annotations overlap: highest_class (pixelwise maximum of the index) or smallest_on_top (by area)."""
    encoder_weights: str | None
    """The default of `encoder.weights` on this data."""

    def __post_init__(self) -> None:
        _one_of("data.format", self.format, ("coco", "folder", "toy"))
        rule = f"data={self.name} needs the folder that its files are relative to: data.root=DIR"
        _check(self.format == "toy" or self.root is not None, "data.root", self.root, rule)
        _one_of("data.overlap", self.overlap, ("highest_class", "smallest_on_top"))
        fractions = (self.val_fraction, self.test_fraction)
        rule = "fractions lie in (0, 1) and leave images to train on"
        _check(0 < fractions[0] and 0 <= fractions[1] and sum(fractions) < 1, "data.val_fraction", fractions, rule)
        _check(self.split_seed >= 0, "data.split_seed", self.split_seed, "must be >= 0")
        _check(2 <= len(self.classes) <= 255, "data.classes", len(self.classes), "give 2 to 255 class names")
        unique = len(set(self.classes)) == len(self.classes)
        _check(unique, "data.classes", self.classes, "a class name stands twice")
        for category, name in self.class_of.items():
            rule = f"no such class; data.classes has {', '.join(self.classes)}"
            rule += " (data=coco begins without entries)" if category == name else ""
            _check(name is None or name in self.classes, f"data.class_of.{category}", name, rule)
        if self.num_folds is None:
            _check(self.fold is None, "data.fold", self.fold, "give data.num_folds too")
        else:
            _check(self.num_folds >= 2, "data.num_folds", self.num_folds, "must be >= 2, or null for no folds")
            _check(self.annotations is not None, "data.num_folds", self.num_folds, "folds need data.annotations")
            in_range = self.fold is not None and 0 <= self.fold < self.num_folds
            _check(in_range, "data.fold", self.fold, f"give 0 to {self.num_folds - 1}")


@dataclass
class TrainingConfig:
    """The training recipe."""

    epochs: int
    """>= 1."""
    batch_size: int
    """Images a step, >= 1; an incomplete last batch is dropped."""
    image_size: int
    """Side of the square that images are resized to, px."""
    precision: str
    """fp32, bf16 or fp16 (autocast; fp16 with loss scaling, on CUDA)."""
    channels_last: bool
    """Memory order of images and weights; faster with tensor cores and on AVX512, and rounds differently."""
    gradient_clip: float | None
    """Largest norm of the gradient, > 0; null for none."""
    ema_decay: float | None
    """Validate and keep an exponential moving average of the weights, in (0, 1); null for none."""
    deterministic: bool
    """Bit-equal reruns on CUDA too. On the CPU they are anyway."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "image_size"):
            value = getattr(self, key)
            _check(value >= 1, f"training.{key}", value, "must be >= 1")
        _one_of("training.precision", self.precision, ("fp32", "bf16", "fp16"))
        clip = self.gradient_clip
        _check(clip is None or clip > 0, "training.gradient_clip", clip, "must be > 0, or null for none")
        decay = self.ema_decay
        _check(decay is None or 0 < decay < 1, "training.ema_decay", decay, "must lie in (0, 1), or null for none")


@dataclass
class RuntimeConfig:
    """What must not change the result (the number of threads changes its last bits)."""

    device: str
    """auto (CUDA where there is one), cpu or cuda."""
    num_threads: int | None
    """CPU threads; null takes the cores that this process may use. A run that continues keeps its number."""
    num_workers: int | None
    """Loader processes; null chooses: none on a CPU, where they would take the trainer's cores."""
    cache: bool
    """Decode every image and draw every polygon once, for all runs."""
    cache_dir: str
    """Where the cache, the toy dataset and the facts on pairs lie."""
    weights_dir: str | None
    """Folder filled by `python -m trash_seg.weights fetch`; null asks the hub and its cache."""
    step: str
    """How a step runs: eager, graph (captured as one CUDA graph), or auto: graph on CUDA where that is possible."""
    checkpoint_seconds: float
    """Within an epoch, save after so many seconds, > 0. After each epoch there is a checkpoint anyway."""
    progress: bool
    """A progress bar on a terminal, a line an epoch elsewhere."""
    tensorboard: bool
    """Write TensorBoard event files into the run directory as well."""

    def __post_init__(self) -> None:
        _one_of("runtime.device", self.device, ("auto", "cpu", "cuda"))
        _one_of("runtime.step", self.step, ("auto", "eager", "graph"))
        threads, workers = self.num_threads, self.num_workers
        _check(threads is None or threads >= 1, "runtime.num_threads", threads, "must be >= 1, or null")
        _check(workers is None or workers >= 0, "runtime.num_workers", workers, "must be >= 0, or null")
        _check(self.checkpoint_seconds > 0, "runtime.checkpoint_seconds", self.checkpoint_seconds, "must be > 0")


@dataclass
class SweepConfig:
    """The sweep that a run belongs to; no part of its identity."""

    name: str
    """The folder under `outputs/`."""
    max_parameters: float | None
    """A sweep leaves out pairs with more parameters; null keeps all."""
    retry_failed: bool
    """A sweep runs again what failed or diverged."""
    stop_epoch: int | None
    """A run ends after this epoch, as `pruned`, and can go on later; >= 1, or null for none. Set by halving sweeps."""

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"\w[\w.\-]*", self.name) is not None
        _check(plain, "sweep.name", self.name, "a folder name of letters, digits, '.', '_' and '-'")
        limit = self.max_parameters
        _check(limit is None or limit > 0, "sweep.max_parameters", limit, "must be > 0, or null for all")
        stop = self.stop_epoch
        _check(stop is None or stop >= 1, "sweep.stop_epoch", stop, "must be >= 1, or null for none")


OUTSIDE_IDENTITY = ("runtime", "sweep", "data.root", "data.encoder_weights")
"""Settings that do not change what a run is: it keeps its name and directory."""


@dataclass
class Config:
    """Every setting of a run."""

    seed: int
    """Of the weights, the order and the augmentation, >= 0. Runs that differ in it alone are replicates."""
    encoder: EncoderConfig
    decoder: DecoderConfig
    data: DataConfig
    augmentation: AugmentationConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    loss: LossConfig
    runtime: RuntimeConfig
    sweep: SweepConfig

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")
        for key, options in (("decoder", self.decoder.options), ("optimizer", self.optimizer.options)):
            try:
                json.dumps(options, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{key}.options={options}: {error}") from error
        weights, num_classes = self.loss.class_weights, len(self.data.classes)
        if isinstance(weights, list):
            rule = f"give {num_classes} numbers, one for each of data.classes"
            _check(len(weights) == num_classes, "loss.class_weights", weights, rule)

    @property
    def hash(self) -> str:
        """8 hex digits of every setting that may change the result, the seed aside: equal for replicates."""
        settings = dataclasses.asdict(self)
        for path in ("seed", *OUTSIDE_IDENTITY):
            *groups, key = path.split(".")
            del functools.reduce(dict.__getitem__, groups, settings)[key]
        text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def run_id(self) -> str:
        """The name of the run and its directory: `<encoder>-<decoder>-s<seed>-<hash>`."""
        pair = re.sub(r"[^\w.\-]", "_", f"{self.encoder.name}-{self.decoder.name}")
        return f"{pair}-s{self.seed}-{self.hash}"


def to_config(composed: DictConfig) -> Config:
    """Hydra's composed config as a plain, checked object.

    Raises:
        ConfigError: A value is outside its range, or there is no such setting.
        omegaconf.errors.OmegaConfBaseException: A value is missing or has the wrong type.
    """
    refuse_unknown(composed)
    groups: dict[str, Any] = {
        field.name: OmegaConf.to_object(composed[field.name])
        for field in dataclasses.fields(Config)
        if field.name != "seed"
    }
    return Config(seed=composed.seed, **groups)


def refuse_unknown(composed: DictConfig) -> None:
    """Raises ConfigError for a setting that nothing reads, as `+training.epoch=2` adds one."""
    known = setting_names()
    for name in map(str, composed):
        group = composed._get_node(name)
        inner = [f"{name}.{key!s}" for key in group] if isinstance(group, DictConfig) and name in known else []
        for given in (name, *inner):
            if given not in known and given != "hydra":
                raise ConfigError(no_such_setting(given))


def setting_names() -> list[str]:
    """Every setting and group of settings: `seed`, `training`, `training.epochs`."""
    names = []
    for name, kind in get_type_hints(Config).items():
        names.append(name)
        if dataclasses.is_dataclass(kind):
            names += [f"{name}.{field.name}" for field in dataclasses.fields(kind)]
    return names


def no_such_setting(given: str) -> str:
    """For the user, with the setting that is spelt most like it."""
    close = difflib.get_close_matches(given, setting_names(), n=1)
    return f"{given}: there is no such setting" + (f"; did you mean {close[0]}?" if close else "")


def config_from_dict(settings: Mapping[str, Any]) -> Config:
    """A Config from its `dataclasses.asdict`, as a run's status holds it.

    Raises:
        ConfigError: A setting is missing, unknown or outside its range: another version wrote it.
    """
    groups: dict[str, Any] = {}
    kinds: dict[str, Callable[..., Any]] = get_type_hints(Config)
    for name, kind in kinds.items():
        value = settings.get(name)
        if not dataclasses.is_dataclass(kind):
            groups[name] = value
            continue
        fields = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(value, dict) or value.keys() != fields:
            differing = sorted(fields ^ value.keys()) if isinstance(value, dict) else [name]
            raise ConfigError(f"{name}: settings of another version ({', '.join(differing)} missing or unknown)")
        groups[name] = kind(**value)
    return Config(**groups)


def register() -> None:
    """Makes the schema and the `run_id` resolver known to Hydra. Safe to call twice."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_id", lambda *, _root_: to_config(_root_).run_id, replace=True)
