"""Fixtures that several test files use."""
from toy_chat import out  # noqa: F401
