"""Batch norm for training on CPUs: one operation of TensorFlow where Keras makes eight. Knows no network."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable("shortcut")
class FusedBatchNormalization(layers.BatchNormalization):
    """Batch norm over all but the last axis of (N, h, w, C) (Ioffe and Szegedy 2015, 1502.03167, algorithm 1).

    Outside of training it is Keras' own layer, so that an exported graph holds nothing unusual. `shift_rate` is the
    factor on the gradient of the shift (beta): with stochastic gradient descent, on its learning rate (Jordan 2024,
    2404.00498, section 3.4).
    """

    def __init__(self, shift_rate: float = 1.0, **options: Any):
        super().__init__(**{"momentum": 0.9, "epsilon": 1e-5, **options})
        self.shift_rate = shift_rate

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shift_rate": self.shift_rate}

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones(inputs.shape[-1:])
        shift = _learnt_faster(tf.convert_to_tensor(self.beta), self.shift_rate)
        output, mean, variance = tf.compat.v1.nn.fused_batch_norm(inputs, scale, shift, epsilon=self.epsilon)[:3]
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return output


def _learnt_faster(x: tf.Tensor, rate: float) -> tf.Tensor:
    """`x` itself, with `rate` times its gradient."""
    return rate * x - tf.stop_gradient((rate - 1) * x) if rate != 1 else x


def bn_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch norm and relu, the activation that comes before a convolution in pre-activation networks."""
    return layers.ReLU(name=f"{name}_relu")(FusedBatchNormalization(name=f"{name}_bn")(x))
