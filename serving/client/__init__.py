"""Asks a running service about pictures, from a program; `python -m serving.client` does it from a shell.

Knows HTTP and the service's failures, and nothing of its inside: neither BentoML nor a runtime nor numpy is imported.
"""

from serving.client.clients import AsyncClient, Client
from serving.client.protocol import Answer, NoAnswer, NotTheService, Options, Prediction, Unreachable

__all__ = ["Answer", "AsyncClient", "Client", "NoAnswer", "NotTheService", "Options", "Prediction", "Unreachable"]
