"""Errors that are the user's to mend, shown as one message without a traceback; and other ways for a run to end."""


class UserError(Exception):
    """An input that cannot be used. The message names the key or file, its value, and the way out."""

    hint: str | None = None
    """The way out, where the message leaves it to the caller."""


class ConfigError(UserError):
    """A setting has a value outside its range, or two settings contradict each other."""


class DataError(UserError):
    """An annotation file or an image cannot be used."""


class WeightsError(UserError):
    """Pretrained weights are neither at hand nor to be had."""


class UnsupportedPairError(Exception):
    """SMP cannot build this encoder with this decoder. The message is SMP's reason in one line; it is no failure."""


class RunInterrupted(BaseException):
    """The run was asked to stop. Like KeyboardInterrupt it is no Exception: nobody takes it for a failure of theirs."""


class LockLostError(Exception):
    """Another process has taken the run's directory; this one must not write into it any more."""


class DivergedError(Exception):
    """A loss became NaN or infinite. The message says at which epoch and step."""


NO_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""What such errors hold: of the CPU, of C++, of CUDA itself, of cuDNN and cuBLAS."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is the trouble, on any device. torch says it in many ways, most of them a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in NO_MEMORY)
