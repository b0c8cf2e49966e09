"""The table of experiments: every run that the study's claims rest on, one row each, shared between claims.

Rows are plain data with an estimate of their cost. Nothing here trains, measures or judges; `measure` runs a row and
`claims` names the rows it needs through the functions below.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from training.networks.network import Network, Tensor, conv
from training.networks.table import NETWORKS
from training.recipes.notebook import SYSTEMS
from training.recipes.recipe import Recipe

# Milliseconds to train on one image, measured on 2 cores of an AMD EPYC: for any network, and for a million
# multiply-accumulate operations.
_COST = (0.07, 0.031)
_FORWARD = 1 / 3  # of the cost of training on the same image
_START = 10.0  # seconds to build and compile a network, about


@dataclass(frozen=True)
class Scale:
    """How large the study is. FULL is the study; QUICK is the same code at toy size, for the tests.

    `images` and `validation` count the images of the sweep, `probes` the test images for shifts and dropped blocks.
    `contrasts` are the depths that are also trained without shortcuts. `rounds` are the interleaved turns of the paired
    timing, each of at least `turn` images; `systems` are run whole.
    """

    images: int
    validation: int
    epochs: int
    depths: tuple[int, ...]
    contrasts: tuple[int, ...]
    seeds: tuple[int, ...]
    probes: int
    rounds: int
    turn: int
    systems: tuple[str, ...]
    quick: bool = False

    @property
    def shallow(self) -> int:
        """Blocks of the sweep's shallow network: as many as conv_resnet_shallow has, where the sweep goes deeper."""
        return 2 if max(self.depths) > 2 else min(self.depths)

    @property
    def deep(self) -> int:
        return max(self.depths)


DEEP_SYSTEMS = tuple(name for name in SYSTEMS if name.startswith("conv_resnet_deep"))  # an hour each: one seed
QUICK_SYSTEMS = ("dense_resnet-mnist", "dense_sum-mnist")  # the other full runs are missing in the toy study

FULL = Scale(
    10_000, 2_000, 5, (1, 2, 4, 8, 19), (8, 19), (0, 1, 2), probes=2_000, rounds=9, turn=256, systems=tuple(SYSTEMS)
)
QUICK = Scale(64, 32, 2, (1, 2), (2,), (0,), probes=32, rounds=2, turn=16, systems=QUICK_SYSTEMS, quick=True)

SWEEP_BATCH = 64  # for every depth: with the deep recipe's 256, batch norm would lag for all 5 epochs
SUBSET_DATASET = "cifar10"
BOTTLENECK = "dense_sum_bottleneck"


@dataclass(frozen=True)
class Training:
    """Train `recipe` with `blocks` blocks (None: as in NETWORKS) on `images` images (None: all), then probe it."""

    name: str
    recipe: Recipe
    blocks: int | None = None
    images: int | None = None
    validation: int = 0
    probes: tuple[str, ...] = ()
    probe_images: int = 0

    @property
    def network(self) -> Network:
        row = NETWORKS[self.recipe.network]
        return row if self.blocks is None else replace(row, blocks=self.blocks)

    def seconds(self) -> float:
        """Estimated on 2 idle cores."""
        whole = {"mnist": 60_000, "cifar10": 50_000}.get(self.recipe.dataset, 1_500)
        held_out = 10_000 if self.recipe.validation == "test" else int(whole * self.recipe.validation)
        train = self.images or (whole if self.recipe.validation == "test" else whole - held_out)
        validation = self.validation if self.images else held_out
        forward = validation * self.recipe.epochs + 10_000 + _probed(self)
        cost = _cost(self.network, self.recipe.dataset)
        return _START + cost / 1000 * (train * self.recipe.epochs + _FORWARD * forward)


@dataclass(frozen=True)
class Committed:
    """A full run of `python -m training.fit`, whose record is `runs/MODEL.json`; never trained here."""

    name: str
    model: str

    def seconds(self) -> float:
        return 0.0


@dataclass(frozen=True)
class InitialGradients:
    """Gradient norms by depth before training: with and without shortcuts, with and without batch norm."""

    name: str
    blocks: int
    seeds: tuple[int, ...]
    dataset: str
    images: int

    def seconds(self) -> float:
        return 4.0 * len(self.seeds) * 4


@dataclass(frozen=True)
class ShiftedArtifact:
    """A published artifact's accuracy on shifted test images."""

    name: str
    model: str
    dataset: str
    images: int

    def seconds(self) -> float:
        return 30.0


@dataclass(frozen=True)
class Timed:
    """One network in the paired timing."""

    network: str
    dataset: str
    batch_size: int
    blocks: int | None = None

    @property
    def label(self) -> str:
        blocks = f" of {self.blocks} blocks" if self.blocks else ""
        return f"{self.network}-{self.dataset}{blocks}, batch {self.batch_size}"


@dataclass(frozen=True)
class PairedTiming:
    """Training steps of several networks, interleaved in one process; `blocks` replaces every depth at toy size."""

    name: str
    systems: tuple[Timed, ...]
    rounds: int
    turn: int
    blocks: int | None = None

    def network(self, timed: Timed) -> Network:
        row, blocks = NETWORKS[timed.network], self.blocks or timed.blocks
        return row if blocks is None else replace(row, blocks=blocks)

    def seconds(self) -> float:
        costs = [_cost(self.network(t), t.dataset) * max(self.turn, t.batch_size) / 1000 for t in self.systems]
        return _START * len(self.systems) + self.rounds * sum(costs)


Row: TypeAlias = Training | Committed | InitialGradients | ShiftedArtifact | PairedTiming


def specification(row: Row) -> dict[str, Any]:
    """What a record must share with its row to count as that row's result; JSON types only."""
    fields = asdict(row)
    if isinstance(row, Training):
        fields["recipe"] = row.recipe.hyper_parameters()
    return {"kind": type(row).__name__, **_plain(fields)}


# Names: how claims find rows.


def sweep(blocks: int, seed: int) -> str:
    return f"sweep-{blocks:02}-seed{seed}"


def plain(blocks: int, seed: int) -> str:
    return f"plain-{blocks:02}-seed{seed}"


def subset(network: str, seed: int) -> str:
    return f"subset-{network}-seed{seed}"


def full(model: str, seed: int) -> str:
    return f"full-{model}-seed{seed}"


def shifted(model: str) -> str:
    return f"shifts-{model}"


INITIAL_GRADIENTS = "gradients-initial"
TIMING = "timing"


def timed(network: str, dataset: str) -> Timed:
    """The row of the paired timing for a system, with its recipe's batch."""
    return Timed(network, dataset, SYSTEMS[f"{network}-{dataset}"].batch_size)


def timed_in_sweep(network: str, blocks: int | None = None) -> Timed:
    """The row of the paired timing for a network of the sweep."""
    return Timed(network, SUBSET_DATASET, SWEEP_BATCH, blocks)


def experiments(scale: Scale) -> list[Row]:
    """Every row of the study, cheapest first and the timing last, when nothing else of the study is running."""
    rows: list[Row] = [
        InitialGradients(INITIAL_GRADIENTS, scale.deep, scale.seeds, SUBSET_DATASET, min(256, scale.images))
    ]
    for seed in scale.seeds:
        rows += [_subset_row(sweep(d, seed), "conv_resnet_deep", d, seed, scale) for d in scale.depths]
        rows += [_subset_row(plain(d, seed), "plain", d, seed, scale) for d in scale.contrasts]
        blocks = 1 if scale.quick else None
        rows += [_subset_row(subset(name, seed), name, blocks, seed, scale) for name in ("dense_resnet", BOTTLENECK)]
    for model in scale.systems:
        for seed in (SYSTEMS[model].seed,) if model in DEEP_SYSTEMS else scale.seeds:
            rows.append(_full_row(model, seed, scale))
    if not scale.quick:
        for model in ("dense_resnet-cifar10", "conv_resnet_shallow-cifar10", "conv_resnet_deep-cifar10"):
            rows.append(ShiftedArtifact(shifted(model), model, "cifar10", scale.probes))
    timing = PairedTiming(TIMING, _timed_rows(scale), scale.rounds, scale.turn, blocks=1 if scale.quick else None)
    return [*sorted(rows, key=lambda row: row.seconds()), timing]


def _timed_rows(scale: Scale) -> tuple[Timed, ...]:
    return (
        timed("dense_resnet", "mnist"),
        timed("dense_sum", "mnist"),
        timed("dense_resnet", "cifar10"),
        timed("conv_resnet_shallow", "cifar10"),
        timed("conv_resnet_deep", "cifar10"),
        *(timed_in_sweep(network, d) for d in scale.contrasts for network in ("conv_resnet_deep", "plain")),
        timed_in_sweep(BOTTLENECK),
    )


def _subset_row(name: str, network: str, blocks: int | None, seed: int, scale: Scale) -> Training:
    """A run of the sweep: the first images of the training split, the same for every seed, validated on the next."""
    recipe = Recipe(
        network,
        SUBSET_DATASET,
        SWEEP_BATCH,
        scale.validation / (scale.images + scale.validation),
        epochs=scale.epochs,
        seed=seed,
    )
    probes = {"dense_resnet": ("shifts",), "plain": ("gradients", "drops")}.get(network, ("shifts",))
    if network == "conv_resnet_deep" and blocks in scale.contrasts:
        probes = ("shifts", "gradients", "drops")
    return Training(name, recipe, blocks, scale.images, scale.validation, probes, scale.probes)


def _full_row(model: str, seed: int, scale: Scale) -> Row:
    """A system as its recipe says; its own seed is the committed run. At toy size: one block, few images."""
    recipe = replace(SYSTEMS[model], seed=seed, achieved=None)
    probes = ("shifts",) if recipe.dataset == "cifar10" else ()
    if scale.quick:
        recipe = replace(recipe, epochs=scale.epochs, batch_size=SWEEP_BATCH, validation=1 / 3)
        return Training(full(model, seed), recipe, 1, scale.images, scale.validation, probes, scale.probes)
    if seed == SYSTEMS[model].seed:
        return Committed(full(model, seed), model)
    return Training(full(model, seed), recipe, probes=probes, probe_images=scale.probes)


# Networks that only this study needs.


def conv_relu_block(x: Tensor, name: str) -> Tensor:
    """The deep network's block without its batch norm; (N, h, w, 64) -> (N, h, w, 64)."""
    for i in (1, 2):
        x = conv(64, f"{name}_conv{i}", padding="same", activation="relu")(x)
    return x


def initial_networks(blocks: int) -> dict[str, Network]:
    """The four networks of InitialGradients: the same layers, with and without shortcuts and batch norm."""
    rows = {"with shortcuts": NETWORKS["conv_resnet_deep"], "without shortcuts": NETWORKS["plain"]}
    with_norm = {f"{name}, batch norm": replace(row, blocks=blocks) for name, row in rows.items()}
    bare = {f"{name}, no batch norm": replace(row, blocks=blocks, block=conv_relu_block) for name, row in rows.items()}
    return {**with_norm, **bare}


# Estimates


def _cost(network: Network, dataset: str) -> float:
    """Milliseconds to train on one image."""
    return _COST[0] + _COST[1] * network.macs((28, 28, 1) if dataset == "mnist" else (32, 32, 3)) / 1e6


def _probed(row: Training) -> int:
    """Forward passes of one image each: nine shifts, and every dropped block over on average half of the network."""
    passes = {"shifts": 9, "drops": row.network.blocks // 2, "gradients": 0}
    return row.probe_images * sum(passes[probe] for probe in row.probes)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
