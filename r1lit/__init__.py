"""r1lit: the DeepSeek-R1 recipe with Lightning and Hydra."""

__version__ = "0.1.0"
