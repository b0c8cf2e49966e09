"""Connections: how a block's output is made from its body and the outputs before it.

Each takes the outputs of the stem and of every earlier block, the body F(x) of this block (x is the last of those
outputs), a layer name, and the block's depth as a fraction of the network's, in (0, 1]. Knows no block and no family.
"""

from keras import initializers, layers

from training.networks.network import Connection, Tensor


def residual(earlier: list[Tensor], body: Tensor, name: str, depth: float) -> Tensor:
    """F(x) + x (He et al. 2015, "Deep Residual Learning for Image Recognition", eq. 1)."""
    return layers.Add(name=f"{name}_add")([body, earlier[-1]])


def dense_sum(earlier: list[Tensor], body: Tensor, name: str, depth: float) -> Tensor:
    """F(x) plus all outputs before it: the dense connectivity of Huang et al. 2016, eq. 2, summed."""
    return layers.Add(name=f"{name}_add")([body, *earlier])


def no_shortcut(earlier: list[Tensor], body: Tensor, name: str, depth: float) -> Tensor:
    """F(x) alone: the same layers as a plain feed-forward stack."""
    return body


def concatenate(earlier: list[Tensor], body: Tensor, name: str, depth: float) -> Tensor:
    """x and F(x) side by side (Huang et al. 2016, "Densely Connected Convolutional Networks", eq. 2).

    x already holds all outputs before it, because each was made so.
    """
    return layers.Concatenate(name=f"{name}_concat")([earlier[-1], body])


def gate(earlier: list[Tensor], body: Tensor, name: str, depth: float) -> Tensor:
    """T(x) F(x) + (1 - T(x)) x with a learnt T in (0, 1) (Srivastava et al. 2015, "Highway Networks", eq. 3).

    T starts near 0.12 (a bias of -2), so that a deep stack begins close to the identity, as section 2.2 advises.
    """
    x = earlier[-1]
    kind = layers.Dense if len(x.shape) == 2 else lambda units, **options: layers.Conv2D(units, 1, **options)
    t = kind(x.shape[-1], activation="sigmoid", bias_initializer=initializers.Constant(-2), name=f"{name}_gate")(x)
    change = layers.Multiply(name=f"{name}_change")([t, layers.Subtract(name=f"{name}_difference")([body, x])])
    return layers.Add(name=f"{name}_add")([x, change])


def drop(last_survival: float = 0.5) -> Connection:
    """F(x) + x in which a training image loses F(x) with a probability that grows linearly with depth.

    The last block survives with probability `last_survival` (Huang et al. 2016, "Deep Networks with Stochastic Depth",
    eq. 4). Dropout scales what survives in training, in place of eq. 5, which scales in use.
    """

    def connection(earlier: list[Tensor], body: Tensor, name: str, depth: float) -> Tensor:
        whole_image = (None, *(1 for _ in body.shape[1:]))
        rate = depth * (1 - last_survival)
        kept = layers.Dropout(rate, noise_shape=whole_image, name=f"{name}_drop")(body)
        return residual(earlier, kept, name, depth)

    return connection
