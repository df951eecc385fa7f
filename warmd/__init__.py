"""Keep the right vLLM engines of one GPU server warm."""

__version__ = "0.1.0"
