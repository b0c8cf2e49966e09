"""BentoML's own clients: what they must find in /schema.json. Their forms are read by `native`.

BentoML describes methods that are decorated in the service's class, and would answer them. `Declared` has two for
the description alone: the edge answers their routes before BentoML sees a request.
"""

from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType


class Declared:
    """The methods of a client. They are described here, and answered by POST /classify and POST /classify/batch."""

    @bentoml.api(route="/classify")
    def classify(
        self,
        image: Annotated[Path, ContentType("image/*")],
        model: str | None = None,
        version: int | None = None,
        top_k: int = 3,
        min_probability: float | str | None = None,
    ) -> dict[str, Any]:
        """Classify one image: the most probable classes, best first."""
        raise NotImplementedError("the edge answers this route")

    @bentoml.api(route="/classify/batch")
    def classify_batch(
        self,
        images: list[Path],
        model: str | None = None,
        version: int | None = None,
        top_k: int = 3,
        min_probability: float | str | None = None,
    ) -> dict[str, Any]:
        """Classify several images: a result for each, in order; one that cannot be decoded fails alone."""
        raise NotImplementedError("the edge answers this route")
