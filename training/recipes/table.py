"""The RECIPES table: the rows of every recipe by its name, and which row a network and a data set get.

A new recipe is one file with its ROWS and one line here. Knows the NETWORKS table for a network's first data set only.
"""

from dataclasses import replace
from fnmatch import fnmatchcase

from training.networks.network import PREFIX
from training.networks.table import NETWORKS
from training.recipes import augmented, handwriting, notebook, quick, transfer, tuned
from training.recipes.recipe import Recipe

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "quick": quick.ROWS,  # first, so that no network gets it by default
    "notebook": notebook.ROWS,
    "tuned": tuned.ROWS,
    "augmented": augmented.ROWS,
    "transfer": transfer.ROWS,
    "handwriting": handwriting.ROWS,
}


def recipe_for(network: str, dataset: str | None = None, name: str | None = None, weights: str | None = None) -> Recipe:
    """The recipe NAME of NETWORK on DATASET (default: the network's first). Raises ValueError where no row fits.

    Without NAME, a row of any recipe that names both comes first; of the rows that hold a pattern, the last recipe's.
    `weights` are those to begin with: `none`, `imagenet` or a file; without them it is what the recipe says. A network
    of keras.applications without weights is trained by `augmented`.
    """
    dataset = dataset or NETWORKS[network].datasets[0]
    if name is None and network.startswith(PREFIX) and weights in (None, "none"):
        name = "augmented"
    if name is not None and name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose from {', '.join(RECIPES)}")
    recipe = _row(network, dataset, name)
    if weights is None:
        return recipe
    recipe = replace(recipe, weights="" if weights == "none" else weights)
    if recipe.weights and not NETWORKS[network].pretrained:
        raise ValueError(f"{network} has no weights to begin with: leave out --weights {weights}")
    if recipe.frozen and not recipe.weights:
        raise ValueError(f"the recipe {recipe.name} begins with weights: --weights none needs another --recipe")
    return recipe


def _row(network: str, dataset: str, name: str | None) -> Recipe:
    tables = [RECIPES[name]] if name else list(RECIPES.values())
    for row in (row for rows in tables for row in rows):
        if (row.network, row.dataset) == (network, dataset):
            return row
    for row in (row for rows in reversed(tables) for row in rows):
        if fnmatchcase(network, row.network) and fnmatchcase(dataset, row.dataset):
            return replace(row, network=network, dataset=dataset)
    raise ValueError(f"no recipe {name or ''} for {network} on {dataset}".replace("  ", " "))
