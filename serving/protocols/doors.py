"""Which front doors there are, and which of them SHORTCUT_PROTOCOLS opens. The one list of protocols."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from serving.edge.router import Route
from serving.errors import StartError
from serving.protocols import native
from serving.repository.models import Repository
from serving.settings import Settings

Repositories = Callable[[], Repository]  # the models that are served at that moment
Environment = Mapping[str, str]


def always(environment: Environment) -> bool:
    return True


class Door(NamedTuple):
    """`routes` makes a protocol's routes. `by_default` says whether they are open where nobody has named any: a cloud
    platform's are where its environment shows that the service runs there."""

    routes: Callable[[Repositories, Settings], list[Route]]
    by_default: Callable[[Environment], bool] = always


DOORS: dict[str, Door] = {
    "native": Door(native.routes),
}


def opened(names: str, environment: Environment) -> list[str]:
    """The doors that SHORTCUT_PROTOCOLS=`names` opens: `all`, some separated by commas, or the default for nothing.
    Raises StartError for one that there is not."""
    if not names:
        return [name for name, door in DOORS.items() if door.by_default(environment)]
    if names == "all":
        return list(DOORS)
    wanted = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    if unknown := [name for name in wanted if name not in DOORS]:
        raise StartError(f"SHORTCUT_PROTOCOLS={names}: {unknown[0]!r} is none of {', '.join(DOORS)}, all")
    return list(wanted)


def routes(repositories: Repositories, settings: Settings, environment: Environment) -> list[Route]:
    """Of every door that is open. Raises StartError."""
    names = opened(settings.protocols, environment)
    return [route for name in names for route in DOORS[name].routes(repositories, settings)]
