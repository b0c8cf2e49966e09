"""The one way in which publishing fails. Imports nothing, so that every environment can raise it."""


class ExportError(RuntimeError):
    """The model cannot be published; nothing was left behind."""
