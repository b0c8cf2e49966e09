"""The RECIPES table: the rows of every recipe by its name, and which row a network and a data set get.

A new recipe is one file with its ROWS and one line here. Knows the NETWORKS table for a network's first data set only.
"""

from dataclasses import replace
from fnmatch import fnmatchcase

from training.networks.table import NETWORKS
from training.recipes import augmented, handwriting, notebook, transfer, tuned
from training.recipes.recipe import Recipe

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "notebook": notebook.ROWS,
    "tuned": tuned.ROWS,
    "augmented": augmented.ROWS,
    "transfer": transfer.ROWS,
    "handwriting": handwriting.ROWS,
}


def recipe_for(network: str, dataset: str | None = None, name: str | None = None) -> Recipe:
    """The recipe NAME of NETWORK on DATASET (default: the network's first). Raises ValueError where no row fits.

    Without NAME, a row of any recipe that names both comes first; of the rows that hold a pattern, the last recipe's.
    """
    dataset = dataset or NETWORKS[network].datasets[0]
    if name is not None and name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose from {', '.join(RECIPES)}")
    tables = [RECIPES[name]] if name else list(RECIPES.values())
    for row in (row for rows in tables for row in rows):
        if (row.network, row.dataset) == (network, dataset):
            return row
    for row in (row for rows in reversed(tables) for row in rows):
        if fnmatchcase(network, row.network) and fnmatchcase(dataset, row.dataset):
            return replace(row, network=network, dataset=dataset)
    raise ValueError(f"no recipe {name or ''} for {network} on {dataset}".replace("  ", " "))
