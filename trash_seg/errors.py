"""Errors that are the user's to mend: shown as one message without a traceback."""


class UserError(Exception):
    """An input that cannot be used. The message names the key or file, its value, and the way out."""


class ConfigError(UserError):
    """A setting has a value outside its range, or two settings contradict each other."""


class DataError(UserError):
    """An annotation file or an image cannot be used."""


class WeightsError(UserError):
    """Pretrained weights are neither at hand nor to be had."""


class UnsupportedPairError(Exception):
    """SMP cannot build this encoder with this decoder. The message is SMP's reason in one line; it is no failure."""
