"""`keras:<Name>`: any network of keras.applications as a row, with its own preprocessing and pretrained weights.

The network stands without its ImageNet classifier under the layer `backbone`; `features` is the mean of what it gives
over the places of the image. Knows no network by itself: names, preprocessing and addresses are those of Keras.
"""

import inspect
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import applications, layers

from training.networks.connections import no_shortcut
from training.networks.network import PREFIX, Network, Tensor

BACKBONE, FEATURES = "backbone", "features"
DROPOUT = 0.2  # before the classifier, as EfficientNet and MobileNetV3 have it
ENDINGS = (".weights.h5", ".h5", ".keras")

NAMES = tuple(name for name, value in vars(applications).items() if name[0].isupper() and inspect.isfunction(value))

# Sides in pixels: of the images that Keras' weights were trained on where that is not 224, and of the smallest ones
# that Keras accepts where that is not 32.
_SIDES = {
    **{"EfficientNetB1": 240, "EfficientNetB2": 260, "EfficientNetB3": 300, "EfficientNetB4": 380},
    **{"EfficientNetB5": 456, "EfficientNetB6": 528, "EfficientNetB7": 600},
    **{"EfficientNetV2B1": 240, "EfficientNetV2B2": 260, "EfficientNetV2B3": 300},
    **{"EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480},
    **{"InceptionV3": 299, "InceptionResNetV2": 299, "Xception": 299, "NASNetLarge": 331},
}
_SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
_IMAGENET_VARIANCE = np.square([0.229, 0.224, 0.225])


def row(name: str) -> Network:
    """The row of keras.applications.NAME. Raises ValueError for a name that is not there, with those that are close."""
    if name not in NAMES:
        lower = {known.lower(): known for known in NAMES}
        close = [lower[match] for match in get_close_matches(name.lower(), lower, n=4, cutoff=0.5)]
        hint = f"did you mean {' or '.join(PREFIX + known for known in close)}?" if close else ", ".join(NAMES)
        raise ValueError(f"keras.applications has no network {name!r}: {hint}")
    return Network(
        partial(_family, name),
        _no_block,
        1,
        no_shortcut,
        ("cifar10",),
        _SMALLEST.get(name, 32),
        f"keras.applications.{name}, which names its paper",
        _SIDES.get(name, 224),
        partial(put_weights, name),
    )


def _family(name: str, image: Tensor, network: Network) -> Tensor:
    """(N, H, W, 1 or 3) in [0, 1] -> (N, features)."""
    if image.shape[-1] == 1:  # grey: the networks were made for colours
        image = layers.Concatenate(dtype="float32", name="channels")([image] * 3)
    whole = _application(name, input_shape=image.shape[1:])
    if any(_grouped(layer) for layer in whole.layers):  # ConvNeXt
        whole = keras.models.clone_model(whole, clone_function=_as_depthwise)
    backbone = keras.Model(whole.input, whole.output, name=BACKBONE)  # EfficientNetV2 minds another name of its own
    x = backbone(_preprocessed(image, preprocessing(name)))
    x = layers.GlobalAveragePooling2D(name=FEATURES)(x)
    return layers.Dropout(DROPOUT, name="head_dropout")(x)


def _grouped(layer: keras.Layer) -> bool:
    return isinstance(layer, layers.Conv2D) and layer.groups > 1


def _as_depthwise(layer: keras.Layer) -> keras.Layer:
    """A copy; of a convolution with as many groups as channels as DepthwiseConv2D: tf2onnx cannot convert the former.

    Its kernel has the same numbers in the same order, only its axes of length 1 lie elsewhere.
    """
    if not _grouped(layer):
        return layer.__class__.from_config(layer.get_config())
    return layers.DepthwiseConv2D(
        layer.kernel_size,
        layer.strides,
        layer.padding,
        depthwise_initializer=layer.kernel_initializer,
        use_bias=layer.use_bias,
        name=layer.name,
    )


def preprocessing(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Keras' `preprocess_input` for NAME: (N, H, W, 3) float32 from 0 to 255, which it may change."""
    return sys.modules[getattr(applications, name).__module__].preprocess_input


def _application(name: str, **arguments: Any) -> keras.Model:
    """The network as Keras builds it, for images of the size that it was designed for where `arguments` name none."""
    side = _SIDES.get(name, 224)
    default = {"include_top": False, "weights": None, "input_shape": (side, side, 3)}
    return getattr(applications, name)(**{**default, **arguments})


def _no_block(x: Tensor, name: str) -> Tensor:
    raise NotImplementedError("Keras builds the blocks")


def _preprocessed(image: Tensor, preprocess: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """What `preprocess` makes of pixels from 0 to 255, for an image in [0, 1].

    Every family of Keras scales and moves each channel, and some put blue first: three pure colours and black tell
    how. In float32 under any precision: bfloat16 cannot tell neighbouring grey levels apart.
    """
    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype(np.float32)
    black, *pure = preprocess(colours[:, None, None])[:, 0, 0].astype(np.float64)
    gain = np.array(pure) - black  # (from channel, to channel)
    order = np.abs(gain).argmax(axis=0)
    scale = gain[order, range(3)]
    if not np.allclose(gain, np.eye(3)[:, order] * scale, atol=1e-4):
        raise NotImplementedError("this preprocessing mixes channels")
    if list(order) != [0, 1, 2]:
        image = keras.ops.take(image, order.tolist(), axis=-1)
    return layers.Rescaling(scale.tolist(), black.tolist(), dtype="float32", name="preprocessing")(image)


# Weights


def check_weights(weights: str) -> None:
    """Raise ValueError unless `weights` is `none`, `imagenet` or names a file that may hold weights."""
    if weights in ("none", "imagenet"):
        return
    if not weights.endswith(ENDINGS):
        raise ValueError(f"expected none, imagenet or a file *{', *'.join(ENDINGS)}, got {weights}")
    if not Path(weights).is_file():
        raise ValueError(f"{weights}: no such file")


def put_weights(name: str, model: keras.Model, weights: str) -> None:
    """Put ImageNet's weights (`imagenet`: Keras fetches them once) or those of a file into the backbone of `model`.

    A file may be a .weights.h5, a .keras or an .h5 of the old kind, of the network with or without its ImageNet
    classifier. Raises ValueError, which says what was tried and what to do.
    """
    backbone = model.get_layer(BACKBONE)
    arrays = _imagenet(name) if weights == "imagenet" else _from_file(name, weights)
    backbone.set_weights([a.reshape(w.shape) for a, w in zip(arrays, backbone.weights, strict=True)])
    for layer in backbone.layers:
        if isinstance(layer, layers.Normalization) and layer.weights:  # EfficientNet, not V2
            mean, variance, count = layer.get_weights()
            if np.allclose(variance, _IMAGENET_VARIANCE, rtol=1e-3):
                # With ImageNet's weights Keras divides by the root of the deviation once more, in a layer of its own.
                layer.set_weights([mean, variance**1.5, count])
            layer.finalize_state()


def _imagenet(name: str) -> list[np.ndarray]:
    try:
        return _application(name, weights="imagenet").get_weights()
    except Exception as err:  # Keras and the libraries under it raise what they like
        raise ValueError(
            f"{PREFIX}{name}: ImageNet's weights are not to be had: {_reason(err)}. Without a connection, fetch that "
            "file elsewhere and give it with --weights FILE; or train from scratch with --weights none"
        ) from err


def _from_file(name: str, path: str) -> list[np.ndarray]:
    """The backbone's weights from a file that was saved with the classifier or without it."""
    first: Exception | None = None
    count = 0
    for with_top in (False, True):
        model = _application(name, include_top=with_top)
        count = count or len(model.weights)  # those without the classifier, which come first in the file of both
        try:
            model.load_weights(path)
            return model.get_weights()[:count]
        except Exception as err:
            first = first or err
    raise ValueError(f"--weights {path}: does not hold the weights of {PREFIX}{name}: {_reason(first)}") from first


def _reason(err: BaseException | None) -> str:
    return (next(iter(str(err).splitlines()), "") or type(err).__name__)[:300].rstrip(". ")
