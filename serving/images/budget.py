"""How much work a picture may be, where it is decoded between other requests. Counts work, not time."""


class TakesLong(Exception):
    """More work than was allowed; no failure."""


class Budget:
    """Work that is left, in runs of ink or the like, each worth a few microseconds at most."""

    def __init__(self, work: int):
        self._left = work

    def take(self, work: int) -> None:
        """Raises TakesLong where more has been asked for than there was."""
        self._left -= work
        if self._left < 0:
            raise TakesLong
