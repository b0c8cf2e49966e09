"""The devices of this machine that a training computes on: one, or several among which each batch is split.

TensorFlow's MirroredStrategy keeps a copy of the weights on each device and adds up the gradients (Dean et al. 2012,
"Large Scale Distributed Deep Networks", synchronously). Knows neither recipes nor data.
"""

import tensorflow as tf

from training.runs.parts import RunError

KINDS = ("mirrored", "multi-worker")
ISSUE = "https://github.com/keras-team/keras/issues/20585"
CPUS = 2  # logical devices where there is no GPU


def strategy(kind: str | None, batch_size: int) -> tf.distribute.Strategy | None:
    """How to spread batches of `batch_size` images; None for one device. Before TensorFlow has computed anything.

    Without a GPU the processor is taken for two devices, which shows what several do and makes nothing faster. Raises
    RunError.
    """
    if kind is None:
        return None
    if kind == "multi-worker":
        raise RunError(
            f"--distribute multi-worker: Keras 3 does not train on several machines with TensorFlow ({ISSUE}); "
            "--distribute mirrored takes all GPUs of one"
        )
    count = len(tf.config.list_physical_devices("GPU"))
    if count == 1:
        raise RunError("--distribute mirrored: there is one GPU, which is used anyway; two or more are needed")
    device, count = ("GPU", count) if count else ("CPU", CPUS)
    if batch_size % count:
        raise RunError(
            f"--distribute mirrored: a batch of {batch_size} does not split evenly among {count} devices; "
            f"--batch-size {batch_size + count - batch_size % count} does"
        )
    if device == "CPU":
        [processor] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * CPUS)
        print("no GPU: the processor counts as two devices, which makes nothing faster", flush=True)
    print(f"each batch of {batch_size} is split among {count} devices", flush=True)
    return tf.distribute.MirroredStrategy([f"{device}:{index}" for index in range(count)])


def even(images: int, batch_size: int, devices: int) -> int:
    """How many of `images` an epoch takes, so that its last batch too splits evenly: fewer than `devices` are left
    out. A device without an image would make the loss no number."""
    return images - images % batch_size % devices
