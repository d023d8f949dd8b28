"""Train encoder × decoder pairs on a segmentation dataset and say which differences are real."""

__version__ = "0.1.0"
