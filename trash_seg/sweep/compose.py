"""The configs of a grid's jobs, without composing each of hundreds from its files.

Hydra takes 0.1 s for one. Jobs of a grid differ in a few group choices and values, so the first is composed in full and
the others by exchanging what differs. The last job, which differs most, is composed in full as well: where the two
ways disagree (a config with defaults of its own, say), all are composed in full.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from trash_seg.config import Config, to_config


class Composer:
    """Composes the configs of jobs that share a master config."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, list[str]] = {}
        self._options: dict[tuple[str, str], DictConfig] = {}

    def in_full(self, overrides: Sequence[str]) -> DictConfig:
        """The way of every single run, `hydra` node left out.

        Raises:
            HydraException: An option or key does not exist; the message lists what does.
        """
        composed = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(composed):
            del composed["hydra"]
        return composed

    def all(self, jobs: Sequence[Sequence[str]]) -> list[Config | MissingMandatoryValue]:
        """One config for each job, in order; in place of one with a missing value, the error that names it.

        Raises:
            ConfigError: A value is outside its range.
            HydraException, OmegaConfBaseException: An option or key does not exist, or a value has the wrong type.
        """
        last = _checked(self.in_full(jobs[-1]))
        try:
            quick = self._exchange(jobs)
        except (_NotExchangeableError, OmegaConfBaseException):  # Hydra's own message says more
            quick = []
        if quick and (quick[-1] == last or isinstance(last, MissingMandatoryValue)):
            return quick
        return [*(_checked(self.in_full(job)) for job in jobs[:-1]), last]

    def _exchange(self, jobs: Sequence[Sequence[str]]) -> list[Config | MissingMandatoryValue]:
        """From job to job, other options are put into the groups, then the values."""
        composed = self.in_full(jobs[0])
        configs, before = [_checked(composed)], set(jobs[0])
        for job in jobs[1:]:
            parsed = [self._parse(text) for text in job]
            values = [override for override in parsed if not self._is_group(override)]
            for text, override in zip(job, parsed, strict=True):
                if override not in values and text not in before:
                    composed[override.key_or_group] = self._option(composed, override).copy()
            for override in values:
                changes = override.type is OverrideType.CHANGE and override.package is None
                if not changes or isinstance(override.value(), dict):  # which would add to the job's before
                    raise _NotExchangeableError
                OmegaConf.update(composed, override.key_or_group, override.value(), merge=True)
            configs.append(_checked(composed))
            before = set(job)
        return configs

    def _option(self, base: DictConfig, override: Override) -> DictConfig:
        """A group's node with the values of another option: what lies in its file, under the group's schema."""
        group, name = override.key_or_group, override.value()
        if override.package is not None or not isinstance(name, str) or not OmegaConf.is_config(base.get(group)):
            raise _NotExchangeableError
        if (group, name) not in self._options:
            path = f"{group}/{name}"
            source = next((source for source in self._loader.get_sources() if source.is_config(path)), None)
            if source is None:
                raise _NotExchangeableError
            file = source.load_config(path)
            if "defaults" in file.config or file.header.get("package") is not None:
                raise _NotExchangeableError
            schema = OmegaConf.structured(OmegaConf.get_type(base, group))
            self._options[group, name] = _merged(schema, file.config)
        return self._options[group, name]

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_override(text)
        return self._parsed[text]

    def _is_group(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = self._loader.get_group_options(key)
        return bool(self._groups[key])


class _NotExchangeableError(Exception):
    """A job needs Hydra's full composition."""


def _merged(schema: Any, values: Any) -> DictConfig:
    merged = OmegaConf.merge(schema, values)
    assert isinstance(merged, DictConfig)
    OmegaConf.set_struct(merged, True)
    return merged


def _checked(composed: DictConfig) -> Config | MissingMandatoryValue:
    try:
        return to_config(composed)
    except MissingMandatoryValue as error:
        return error
