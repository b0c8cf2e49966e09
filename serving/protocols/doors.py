"""Which front doors there are, and which of them SHORTCUT_PROTOCOLS opens. The one list of protocols."""

from collections.abc import Callable
from typing import NamedTuple

from serving.edge.router import Route
from serving.errors import StartError
from serving.platforms import Platform
from serving.protocols import hugging_face, native, open_inference, sagemaker, tensorflow_serving, vertex
from serving.repository.models import Repository
from serving.settings import Settings


class House(NamedTuple):
    """What the doors lead to. `repository` gives the models that are served at that moment, `ready` raises Unavailable
    while one of them is not."""

    repository: Callable[[], Repository]
    ready: Callable[[], None]
    settings: Settings
    platform: Platform
    workers: int


def always(platform: Platform) -> bool:
    return True


class Door(NamedTuple):
    """`routes` makes a protocol's routes. `by_default` says whether they are open where nobody has named any: a cloud
    platform's are where its environment shows that the service runs there."""

    routes: Callable[[House], list[Route]]
    by_default: Callable[[Platform], bool] = always


def _native(house: House) -> list[Route]:
    return native.routes(house.repository, house.settings)


def _open_inference(house: House) -> list[Route]:
    limits = open_inference.Limits(house.settings.max_batch_body_bytes, house.settings.max_batch_images)
    return open_inference.OpenInference(house.repository, house.ready, limits).routes()


def _tensorflow_serving(house: House) -> list[Route]:
    limits = tensorflow_serving.Limits(house.settings.max_batch_body_bytes, house.settings.max_batch_images)
    return tensorflow_serving.TensorflowServing(house.repository, limits).routes()


def _hugging_face(house: House) -> list[Route]:
    return hugging_face.HuggingFace(house.repository, house.settings.max_body_bytes).routes()


def _sagemaker(house: House) -> list[Route]:
    settings = house.settings
    limits = sagemaker.Limits(settings.max_batch_body_bytes, settings.max_batch_images, house.workers)
    return sagemaker.Sagemaker(house.repository, house.ready, limits).routes()


def _vertex(house: House) -> list[Route]:
    limits = vertex.Limits(house.settings.max_batch_body_bytes, house.settings.max_batch_images)
    paths = house.platform.vertex_health or "/health", house.platform.vertex_predict or "/predict"
    return vertex.Vertex(house.repository, house.ready, limits, *paths).routes()


DOORS: dict[str, Door] = {
    "native": Door(_native),
    "bentoml_client": Door(lambda house: []),  # the native routes, declared where BentoML looks for them
    "open_inference": Door(_open_inference),
    "tensorflow_serving": Door(_tensorflow_serving),
    "hugging_face": Door(_hugging_face),
    "sagemaker": Door(_sagemaker, lambda platform: platform.sagemaker),
    "vertex": Door(_vertex, lambda platform: platform.vertex),
}


def opened(names: str, platform: Platform) -> list[str]:
    """The doors that SHORTCUT_PROTOCOLS=`names` opens: `all`, some separated by commas, or the default for nothing.
    Raises StartError for one that there is not."""
    if not names:
        return [name for name, door in DOORS.items() if door.by_default(platform)]
    if names == "all":
        return list(DOORS)
    wanted = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    if unknown := [name for name in wanted if name not in DOORS]:
        raise StartError(f"SHORTCUT_PROTOCOLS={names}: {unknown[0]!r} is none of {', '.join(DOORS)}, all")
    return list(wanted)


def routes(names: list[str], house: House) -> list[Route]:
    """Of the doors `names`, which are open."""
    return [route for name in names for route in DOORS[name].routes(house)]
