"""`python -m training.fit NETWORK`: recipe + data -> a trained, evaluated and published model. Parses and calls."""

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from training.artifact.errors import ExportError
from training.artifact.versions import check_name
from training.data.dataset import Dataset, DatasetError
from training.data.loading import load, name_of, with_note_of_few
from training.data.named import NAMED
from training.data.pictures import RESIZES
from training.data.table import Columns
from training.networks.keras_applications import check_weights
from training.networks.network import check_size, plain_name
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.recipes.table import RECIPES, recipe_for
from training.runs.bodies import BEST, BODIES, suited_body
from training.runs.devices import KINDS, strategy
from training.runs.fitting import InterruptedAfterPublishing, check_output, fit
from training.runs.parts import RunError, splits
from training.runs.quick import last_resize, quick
from training.runs.resizing import Resize, suited_resize
from training.runs.suitability import suited, summary_of, without

FOR_PHOTOS = BODIES[0]  # the network for --data where none is named


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    _check(parser, args)

    stopped = _stop_on_signals()
    tf.get_logger().setLevel(logging.ERROR)  # small sets: "retracing is expensive", and nothing a user could do
    tf.config.experimental.enable_op_determinism()  # costs nothing measurable on the CPU; exact --resume needs it
    try:
        try:
            recipe, data, asked, spread = _prepared(args)
            if args.quick:
                artifact = quick(recipe, with_note_of_few(data), output=args.output, runs=args.runs, asked=asked)
            else:
                artifact = fit(
                    recipe,
                    with_note_of_few(data),
                    output=args.output,
                    runs=args.runs,
                    resume=args.resume,
                    asked=asked,
                    strategy=spread,
                )
        except Exception as err:
            if stopped:  # TensorFlow makes an error of its own of what is raised while it traces a function
                raise stopped[0] from err
            raise
    except (DatasetError, RunError, ExportError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except OSError as err:  # a full disk, mostly; other problems with files have messages of their own
        print(f"error: {err.filename or args.runs}: {err.strerror or err}", file=sys.stderr)
        return 1
    except InterruptedAfterPublishing as err:
        print(f"\ninterrupted: {err}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        networks = BODIES if args.network == BEST else (args.network,)
        folders = (args.runs / f"{plain_name(network)}-{_name(args)}" for network in networks)
        begun = any(any(folder.glob("unfinished-*/state.json")) for folder in folders)
        hint = (
            "the same command with --resume continues" if begun else "no epoch was trained: there is nothing to resume"
        )
        hint = "the same command goes on: features that were computed are kept" if args.quick else hint
        print(f"\ninterrupted: nothing was published; {hint}", file=sys.stderr)
        return 130
    models = "" if args.output == Path("models") else f"SHORTCUT_MODELS={args.output} "
    if args.quick:
        whole = _without_quick(sys.argv[1:] if argv is None else argv)
        print(
            "the classifier alone has learnt from these pictures. To train the network, too, which takes minutes:\n"
            f"  python -m training.fit {shlex.join(whole)}"
        )
    print(f"published {artifact}\nserve it: {models}SHORTCUT_DEFAULT_MODEL={artifact.parent.name} make serve")
    return 0


def _without_quick(words: Sequence[str]) -> list[str]:
    """The command's words without --quick and `--recipe quick`, or what argparse takes for them."""
    kept, left = [], iter(words)
    for word in left:
        name, given, _ = word.partition("=")
        if len(name) > len("--re") and "--recipe".startswith(name):
            if not given:
                next(left, None)
        elif len(name) <= len("--") or not "--quick".startswith(name):
            kept.append(word)
    return kept


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.fit",
        description="Train a network with its recipe, evaluate it and publish it as an artifact that can be served.",
    )
    parser.add_argument(
        "network",
        type=_network,
        metavar="NETWORK",
        nargs="?",
        help=", ".join(_named_networks())
        + f", or keras:<Name> of keras.applications (default with --data: {FOR_PHOTOS}); "
        f"{BEST} compares {', '.join(BODIES)} on the pictures of --data",
    )
    parser.add_argument("--network", dest="named", type=_network, help="the same as NETWORK, for --network best")
    parser.add_argument(
        "--dataset", help="mnist, cifar10, digits; with --data: its name (default: the network's first)"
    )
    forms = "a folder <class>/* or {train,valid,test}/<class>/*, a CSV file,label, or an .npz with Keras' keys"
    none = "a class `none` or `other` may hold pictures of none of the classes, as they come in use"
    parser.add_argument("--data", type=Path, help=f"{forms}; {none}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="train a classifier alone, on the features of the last version's network or a pretrained one: seconds, "
        "where most pictures are known from before",
    )
    parser.add_argument("--recipe", choices=list(RECIPES), help="how to train (default: what suits network and data)")
    parser.add_argument(
        "--weights",
        type=_weights,
        help="what a keras:<Name> or efficientnet_lite0 begins with: none, imagenet, or a file .weights.h5, .h5 or "
        ".keras (default: what the recipe says; none for keras:<Name>)",
    )
    parser.add_argument("--labels", help="class names a,b,… in index order")
    parser.add_argument("--file-column", metavar="NAME", help="of a CSV (default: file, or a common name of it)")
    parser.add_argument("--label-column", metavar="NAME", help="of a CSV (default: label, or a common name of it)")
    parser.add_argument("--group-column", metavar="NAME", help="of a CSV: pictures of one group stay in one split")
    parser.add_argument(
        "--no-groups",
        action="store_true",
        help="split pictures of one film or folder too (default: kept together; a CSV's column `group` says so)",
    )
    parser.add_argument("--image-size", type=_positive, help="resize to N pixels square (default: the common size)")
    parser.add_argument(
        "--resize",
        choices=tuple(RESIZES),
        help="how pictures that are not square become so: squash them, pad them with black, or crop the middle "
        "(default: the last version's with --quick; else what suits them best on fixed features; squash from scratch)",
    )
    parser.add_argument("--epochs", type=_positive, help="default: the recipe's")
    parser.add_argument("--batch-size", type=_positive, help="default: the recipe's")
    parser.add_argument("--learning-rate", type=_rate, metavar="RATE", help="default: the recipe's")
    parser.add_argument(
        "--no-flip",
        action="store_true",
        help="do not mirror pictures (default: mirror, unless --data shows that classes depend on left and right)",
    )
    parser.add_argument("--seed", type=_not_negative, help="default: the recipe's")
    parser.add_argument("--output", type=Path, default=Path("models"), help="where artifacts go (default: models)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, weights, plots (default: runs)")
    parser.add_argument("--origin", help="where the data came from, for the card (default: the data set or file)")
    parser.add_argument("--strict", action="store_true", help="refuse damaged pictures instead of skipping a few")
    parser.add_argument(
        "--distribute",
        choices=KINDS,
        help="mirrored: split each batch among all GPUs of this machine; multi-worker: not with Keras 3, and says why",
    )
    parser.add_argument("--resume", action="store_true", help="continue the newest interrupted run of this model")
    return parser


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with an error where the options do not go together; set the network that is meant."""
    if args.network and args.named:
        parser.error(f"NETWORK is named twice: {args.network}, and --network {args.named}")
    args.network = args.network or args.named
    if args.network == BEST and args.data is None:
        parser.error(f"{BEST} compares networks on pictures of your own: give --data")
    if args.network == BEST and (args.recipe not in (None, "transfer") or args.weights not in (None, "imagenet")):
        parser.error(f"{BEST} compares networks with ImageNet's weights: leave out --recipe and --weights")
    if args.network is None and args.data is None:
        parser.error(f"name a NETWORK ({', '.join(_named_networks())}), or give --data")
    if args.resize and args.data is None:
        parser.error("--resize is for pictures of your own: give --data")
    if args.resize and args.data.suffix.lower() == ".npz":
        parser.error(f"--resize is for picture files, in a folder or a CSV; {args.data} holds arrays of one size")
    if args.quick or args.recipe == "quick":
        _check_quick(parser, args)
    args.network = args.network or FOR_PHOTOS


def _check_quick(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """--quick and `--recipe quick` are one; what belongs to epochs does not go with it."""
    if args.recipe not in (None, "quick"):
        parser.error(f"--quick is a recipe of its own: leave out --recipe {args.recipe}")
    if args.network == BEST:
        parser.error(f"--quick goes on with one network: name it in place of {BEST}")
    for option in ("resume", "epochs", "batch_size", "learning_rate", "no_flip", "distribute"):
        if getattr(args, option):
            parser.error(f"--quick trains no epochs: leave out --{option.replace('_', '-')}")
    args.quick, args.recipe = True, "quick"


def _prepared(args: argparse.Namespace) -> tuple[Recipe, Dataset, dict[str, Any], tf.distribute.Strategy | None]:
    """The recipe, the data, what was asked of the data and found, for the card, and the devices to train on.

    What was found is printed. Raises DatasetError, ExportError, RunError and ValueError.
    """
    name, candidates = _name(args), BODIES if args.network == BEST else (args.network,)
    for network in candidates:
        if args.image_size:
            check_size(NETWORKS[network], args.image_size, args.image_size, network)
        check_model_name(network, name, bool(args.data))
    check_output(args.output)  # before thousands of pictures are read, and asked how they are best resized
    recipes = [_recipe(args, network) for network in candidates]
    recipe = recipes[0]
    spread = strategy(args.distribute, recipe.batch_size)  # before anything is computed

    def read(resize: str) -> Dataset:
        return load(
            name,
            args.data,
            seed=recipe.seed,
            labels=tuple(args.labels.split(",")) if args.labels else None,
            image_size=args.image_size or (NETWORKS[recipe.network].image_size if args.data else None),
            origin=args.origin,
            strict=args.strict,
            store=args.runs / "data",
            columns=Columns(args.file_column, args.label_column, args.group_column),
            grouped=not args.no_groups,
            resize=resize,
        )

    asked: dict[str, Any] = {}
    given = args.resize or (last_resize(args.output / recipe.model_name) if args.quick else None)
    first = given or "squash"
    data = read(first)
    if len(recipes) > 1:
        choice = suited_body(recipes, data, first, args.runs, args.image_size)
        print(choice.summary, flush=True)
        asked["bodies"] = choice.stated
        if choice.network != recipe.network:
            recipe = _recipe(args, choice.network)
            data = read(first)
    resize = Resize(given, {}) if given else suited_resize(recipe, data, args.runs)
    if resize.stated:
        print(resize.summary, flush=True)
        asked["resize"] = resize.stated
    if resize.name != first:
        data = read(resize.name)
    if args.no_flip:
        recipe = without(recipe, "flip")
    if args.data and name not in NAMED and not args.quick:  # of those by name it is known
        learnt, _ = splits(recipe, data)
        recipe, findings = suited(recipe, learnt, () if recipe.drawn_ones else data.groups[: len(learnt[1])])
        if findings:
            print(summary_of(findings), flush=True)
            asked["augmentation"] = findings
    return recipe, data, asked, spread


def _name(args: argparse.Namespace) -> str:
    """The data's."""
    return args.dataset or (name_of(args.data) if args.data else NETWORKS[args.network].datasets[0])


def _recipe(args: argparse.Namespace, network: str) -> Recipe:
    """Raises ValueError."""
    recipe = recipe_for(network, _name(args), args.recipe, args.weights)
    options = {key: getattr(args, key) for key in ("epochs", "batch_size", "seed", "learning_rate")}
    return replace(recipe, **{key: value for key, value in options.items() if value is not None})


def _stop_on_signals() -> list[BaseException]:
    """Let SIGTERM end the training as Ctrl-C does, so that `finally` cleans up; the list holds what was raised."""
    raised: list[BaseException] = []

    def stop(number: int, frame: object) -> None:
        raised.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(143))
        raise raised[-1]

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return raised


def check_model_name(network: str, dataset: str, own: bool) -> None:
    """Raise ExportError, before anything is read, where the artifact could not be named so."""
    try:
        check_name(f"{plain_name(network)}-{dataset}")
    except ExportError as err:
        raise ExportError(f"{err}; --dataset NAME names the data" if own else str(err)) from err


def _named_networks() -> list[str]:
    return [name for name in NETWORKS if not name.startswith("_")]


def _network(text: str) -> str:
    if text == BEST:
        return text
    try:
        NETWORKS[text]
    except KeyError as err:
        known = ", ".join([BEST, *_named_networks()])
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {known})") from err
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    return text


def _weights(text: str) -> str:
    try:
        check_weights(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    return text


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from err
    if not 0 < value < 100:  # false for nan too
        raise argparse.ArgumentTypeError(f"must be above 0 and below 100, got {text}")
    return value


def _positive(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from err
    if value < least:
        raise argparse.ArgumentTypeError(f"must {'not be negative' if least == 0 else 'be at least 1'}, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
