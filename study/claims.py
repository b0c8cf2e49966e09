"""The notebook's claims, one row each: the words, the experiment, the settings that decide, and what would settle it.

A setting names the records it needs and the function of `evidence` that reads them. Verdicts come out of `judge`,
never out of a text.
"""

from collections.abc import Callable
from dataclasses import dataclass

from study.evidence import (
    VANISHED,
    Names,
    better,
    deeper_is_better,
    expendable_blocks,
    sooner,
    stable,
    steadier,
    time_ratio,
    trained_gradients,
    vanishing,
)
from study.experiments import (
    BOTTLENECK,
    DEEP_SYSTEMS,
    INITIAL_GRADIENTS,
    SWEEP_BATCH,
    TIMING,
    Scale,
    full,
    plain,
    shifted,
    subset,
    sweep,
    timed,
    timed_in_sweep,
)
from study.records import Records
from study.verdicts import ABOUT_DOUBLE, ABOUT_EQUAL, Outcome, Verdict, verdict
from training.recipes.notebook import SYSTEMS


@dataclass(frozen=True)
class Setting:
    """Where a claim is tried: the records it needs, and what they say once all are there."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[Records], Outcome]


@dataclass(frozen=True)
class Claim:
    number: int
    title: str
    words: str
    experiment: str
    rule: str
    settings: tuple[Setting, ...]
    settle: str

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for setting in self.settings for name in setting.needs))


def judge(claim: Claim, records: Records) -> Verdict:
    """The verdict, with the outcome of every setting whose records are all there."""
    outcomes = {s.name: s.read(records) for s in claim.settings if not records.missing(s.needs)}
    return verdict(outcomes, records.missing(claim.needs), len(claim.needs))


def claims(scale: Scale) -> list[Claim]:
    """All claims for a study of this scale."""
    seeds = scale.seeds
    deep, shallow = (f"conv, {_blocks(count)}" for count in (scale.deep, scale.shallow))
    sweeps = {blocks: tuple(sweep(blocks, seed) for seed in seeds) for blocks in scale.depths}
    dense = tuple(subset("dense_resnet", seed) for seed in seeds)
    plains = {blocks: tuple(plain(blocks, seed) for seed in seeds) for blocks in scale.contrasts}
    mnist_dense, mnist_sum, cifar_dense, cifar_shallow = (
        tuple(full(model, seed) for seed in seeds)
        for model in ("dense_resnet-mnist", "dense_sum-mnist", "dense_resnet-cifar10", "conv_resnet_shallow-cifar10")
    )
    mnist_deep, cifar_deep = (full(model, SYSTEMS[model].seed) for model in DEEP_SYSTEMS)
    subset_name = f"CIFAR-10, {scale.images:,} images, {scale.epochs} epochs"

    def compare(name: str, above: tuple[str, Names], below: tuple[str, Names]) -> Setting:
        return Setting(name, (*above[1], *below[1]), lambda records: better(records, above, below))

    def calm(name: str, conv: tuple[str, Names], of_dense: tuple[str, Names]) -> Setting:
        return Setting(name, (*conv[1], *of_dense[1]), lambda records: steadier(records, conv, of_dense))

    return [
        Claim(
            1,
            "Convolutional networks beat dense ones on images",
            "A convolutional network classifies images better than a dense one.",
            "Dense and convolutional networks on the same images: the sweep's subset, and the full recipes.",
            "The convolutional network's test accuracy is clearly above the dense one's.",
            (
                compare(subset_name, (shallow, sweeps[scale.shallow]), ("dense", dense)),
                compare(
                    "CIFAR-10, full recipes",
                    ("conv_resnet_shallow", cifar_shallow),
                    ("dense_resnet", cifar_dense),
                ),
                compare("MNIST, full recipes", ("conv_resnet_deep", (mnist_deep,)), ("dense_resnet", mnist_dense)),
            ),
            "Larger and other images, and dense networks given the same time or tuned as carefully.",
        ),
        Claim(
            2,
            "Deeper beats shallower, and the gap grows with epochs",
            "More residual blocks classify better, and the longer they train the larger their lead.",
            f"The deep network with {', '.join(map(str, scale.depths))} blocks on the same subset, batches of "
            f"{SWEEP_BATCH}. Also the full runs of the shallow and the deep system (which differ in their block, too).",
            f"The deep network's test accuracy is clearly above the shallow one's ({_blocks(scale.shallow)}). For "
            "every seed the slope of the gap in validation accuracy over the settled epochs is above 0.",
            (
                Setting(
                    subset_name,
                    tuple(name for names in sweeps.values() for name in names),
                    lambda records: deeper_is_better(records, dict(sweeps), scale.shallow, scale.deep),
                ),
                Setting(
                    "CIFAR-10, full recipes",
                    (*cifar_shallow, cifar_deep),
                    lambda records: deeper_is_better(records, {2: cifar_shallow, 19: (cifar_deep,)}, 2, 19),
                ),
            ),
            "Several seeds of the full deep run, and as many epochs as each depth needs to stop improving.",
        ),
        Claim(
            3,
            "The shallow convolutional network trains at about the dense network's speed",
            "Training the shallow convolutional network takes about as long as training the dense one.",
            "Paired timing of training steps on CIFAR-10 images, each with its recipe's batch.",
            "The ratio of times per image is about equal.",
            (_timing_setting(("conv_resnet_shallow", "dense_resnet"), ABOUT_EQUAL),),
            "The same timing on other hardware: on an accelerator that small networks leave idle, the cost of a step "
            "is mostly its start, which both share.",
        ),
        Claim(
            4,
            "The deep network costs about double the shallow one",
            "Training the deep convolutional network takes about twice as long as training the shallow one.",
            "Paired timing of training steps on CIFAR-10 images, each with its recipe's batch.",
            "The ratio of times per image is about double.",
            (_timing_setting(("conv_resnet_deep", "conv_resnet_shallow"), ABOUT_DOUBLE),),
            "The same timing on other hardware. By multiplications alone the deep one costs about five times as much.",
        ),
        Claim(
            5,
            "Dense-sum: the residual network's accuracy in less time",
            "Adding all earlier outputs instead of the last one gives the same accuracy in less training time.",
            "Full recipes of dense_resnet and dense_sum on MNIST, and their paired timing.",
            "dense_sum's mean test accuracy is at most half a point lower. Each of its runs reaches the residual "
            "runs' last validation accuracy (the lowest of them) in less time than any residual run.",
            (
                Setting(
                    "MNIST, full recipes",
                    (*mnist_sum, *mnist_dense, TIMING),
                    lambda records: sooner(
                        records,
                        ("dense_sum", mnist_sum, timed("dense_sum", "mnist")),
                        ("dense_resnet", mnist_dense, timed("dense_resnet", "mnist")),
                        same_accuracy=True,
                    ),
                ),
            ),
            "A harder data set than the notebook's: here both networks end within a few tenths of a point, as seeds "
            "do. So the claim is closed as it is.",
        ),
        Claim(
            6,
            "Bottleneck blocks: the same accuracy at lower cost",
            "Blocks that narrow before their 3×3 convolution (He et al. 2015, section 4.1, figure 5) reach the plain "
            "residual block's accuracy in less time.",
            f"The sweep's deep network beside {BOTTLENECK}, which has as many blocks, narrow ones. Each adds "
            "the outputs of all before it, as the notebook imagined. And their paired timing.",
            "As for claim 5, against the sweep's deep network.",
            _bottleneck(scale, sweeps[scale.deep]),
            "Full recipes; and narrow blocks with the deep network's own connections, since here both differ.",
        ),
        Claim(
            7,
            "Shortcuts prevent vanishing gradients",
            "Without shortcuts the gradient fades on its way to the first layers; with them it does not.",
            f"The gradient of the loss with respect to each block's output, {scale.deep} blocks with and without "
            "shortcuts and otherwise the same (Glorot & Bengio 2010, section 4.2). "
            "It is taken on one batch of training images: before "
            "training, with batch norm and with batch norm out of both, and after training. The "
            "kernels' gradients are beside it; they also carry the size of each layer's input.",
            f"The norm at the first block's output, over that at the last one's, is above {VANISHED} with shortcuts "
            "and below it without, for every seed.",
            (
                _initial_setting("before training", "batch norm"),
                _initial_setting("before training, no batch norm", "no batch norm"),
                Setting(
                    "after training",
                    (*sweeps[scale.deep], *plains[scale.deep]),
                    lambda records: vanishing(
                        trained_gradients(
                            records, {"with shortcuts": sweeps[scale.deep], "without shortcuts": plains[scale.deep]}
                        ),
                        "with shortcuts",
                        "without shortcuts",
                    ),
                ),
            ),
            "Other depths and initialisations. He et al. 2015, section 4.1, argue that batch norm alone keeps the "
            "gradients of plain networks healthy; the setting without it tells the two apart.",
        ),
        Claim(
            8,
            "A deep residual network behaves like an ensemble of shallow ones",
            "No single block matters much, because every block can be bypassed.",
            "Each block in turn is replaced by the identity at test time (Veit et al. 2016, section 4.1). "
            f"The networks are those of the sweep ({_depths(scale)}) and the same ones without shortcuts.",
            "The median block costs at most a tenth of the accuracy above chance with shortcuts, and at least half of "
            "it without, for every seed.",
            tuple(_dropping_setting(blocks, sweeps[blocks], plains[blocks]) for blocks in scale.contrasts),
            "The same on the full deep run, dropping several blocks at once and reordering them (Veit et al. 2016, "
            "sections 4.2 and 4.3).",
        ),
        Claim(
            9,
            "Deep networks are more stable on unseen data",
            "On images unlike those of the training, deep networks lose less than shallow ones.",
            "Test images moved, noised or with less contrast, each at three strengths, the same for every network.",
            "The share of its accuracy that the deep network keeps, averaged over the nine shifts, is clearly above "
            "the shallow one's.",
            (
                Setting(
                    subset_name,
                    (*(name for names in sweeps.values() for name in names), *dense),
                    lambda records: stable(
                        records,
                        (deep, sweeps[scale.deep]),
                        (shallow, sweeps[scale.shallow]),
                        {"dense": dense},
                    ),
                ),
                _full_shifts(scale),
            ),
            "Images from another source than the training's, and several seeds of the full deep run, of hours each. "
            "The two settings point to different sides. So the claim is closed as it is.",
        ),
        Claim(
            10,
            "Residual training is faster than a standard network of the same depth",
            "With shortcuts the same stack of layers learns in less time.",
            f"Networks of the sweep ({_depths(scale)}) with and without shortcuts, and their paired timing.",
            "Every residual run reaches the goal in less time than any plain run. The goal is the lowest last "
            "validation accuracy of whichever group ends higher; a run that never reaches it counts one epoch more "
            "than it had.",
            tuple(_racing_setting(blocks, sweeps[blocks], plains[blocks]) for blocks in scale.contrasts),
            "The full data and as many epochs as the plain network needs, each at its own best learning rate.",
        ),
        Claim(
            11,
            "Convolutional training is steadier over time than dense training",
            "From epoch to epoch the validation accuracy of a convolutional network jumps about less.",
            "The validation accuracy of the full runs by epoch, once batch norm's averages have settled.",
            "The convolutional runs stray less from their straight line over the epochs than any dense run.",
            (
                calm("CIFAR-10, shallow", ("conv_resnet_shallow", cifar_shallow), ("dense_resnet", cifar_dense)),
                calm("CIFAR-10, deep", ("conv_resnet_deep", (cifar_deep,)), ("dense_resnet", cifar_dense)),
                calm("MNIST, deep", ("conv_resnet_deep", (mnist_deep,)), ("dense_resnet", mnist_dense)),
            ),
            "The same networks without batch norm and at a decaying learning rate, which both move this number.",
        ),
    ]


def _blocks(count: int) -> str:
    return f"{count} block" + ("s" if count > 1 else "")


def _depths(scale: Scale) -> str:
    return " and ".join(_blocks(count) for count in scale.contrasts)


def _dropping_setting(blocks: int, residual: Names, plain: Names) -> Setting:
    return Setting(
        f"CIFAR-10 subset, {_blocks(blocks)}",
        (*residual, *plain),
        lambda records: expendable_blocks(records, residual, plain, chance=0.1),
    )


def _racing_setting(blocks: int, residual: Names, plain: Names) -> Setting:
    with_shortcuts = ("with shortcuts", residual, timed_in_sweep("conv_resnet_deep", blocks))
    without = ("without shortcuts", plain, timed_in_sweep("plain", blocks))
    return Setting(
        f"CIFAR-10 subset, {_blocks(blocks)}",
        (*residual, *plain, TIMING),
        lambda records: sooner(records, with_shortcuts, without, same_accuracy=False),
    )


def _timing_setting(networks: tuple[str, str], limits: tuple[float, float]) -> Setting:
    above, below = (timed(network, "cifar10") for network in networks)
    return Setting("this hardware", (TIMING,), lambda records: time_ratio(records, above, below, limits))


def _initial_setting(name: str, norm: str) -> Setting:
    labels = f"with shortcuts, {norm}", f"without shortcuts, {norm}"

    def read(records: Records) -> Outcome:
        gradients = records[INITIAL_GRADIENTS]["gradients"]
        return vanishing({label: gradients[label] for label in labels}, *labels)

    return Setting(name, (INITIAL_GRADIENTS,), read)


def _full_shifts(scale: Scale) -> Setting:
    """The full systems: the recipe's seed is the published artifact, the others are measured when they are trained."""

    def names(model: str) -> tuple[str, ...]:
        others = () if model in DEEP_SYSTEMS else scale.seeds
        return (shifted(model), *(full(model, seed) for seed in others if seed != SYSTEMS[model].seed))

    deep, shallow, dense = (
        names(f"{network}-cifar10") for network in ("conv_resnet_deep", "conv_resnet_shallow", "dense_resnet")
    )
    return Setting(
        "CIFAR-10, full recipes",
        (*deep, *shallow, *dense),
        lambda records: stable(
            records, ("conv_resnet_deep", deep), ("conv_resnet_shallow", shallow), {"dense_resnet": dense}
        ),
    )


def _bottleneck(scale: Scale, residual: tuple[str, ...]) -> tuple[Setting, ...]:
    runs = tuple(subset(BOTTLENECK, seed) for seed in scale.seeds)
    return (
        Setting(
            f"CIFAR-10, {scale.images:,} images, {scale.epochs} epochs",
            (*runs, *residual, TIMING),
            lambda records: sooner(
                records,
                (BOTTLENECK, runs, timed_in_sweep(BOTTLENECK)),
                ("residual", residual, timed_in_sweep("conv_resnet_deep", scale.deep)),
                same_accuracy=True,
            ),
        ),
    )
