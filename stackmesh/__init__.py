"""Plumbing that every process shares and that knows no API, and the code generated from protos/."""

__version__ = "0.1.0"
