"""Artifacts in, answers out."""

__version__ = "0.1.0"  # the project's; pyproject.toml takes it from here, and CHANGELOG.md says what it has
