"""The convolutional digits classifier in PyTorch."""

import torch.nn.functional as F
from torch import Tensor, nn

from workloads_extra.digits_conv.workload import (
    CLASSES,
    FEATURES,
    IMAGE_SIDE,
    KERNEL_SIDE,
    LAYERS,
    NORM_EPSILON,
    NORM_MOMENTUM,
    BaseDigitsConvWorkload,
    conv_name,
    norm_name,
)
from workloads_extra.pytorch_workload import PytorchWorkload


class _ConvNet(nn.Module):
    """Convolutions, each before batch normalisation and ReLU, the mean over the image, a linear layer."""

    def __init__(self):
        super().__init__()
        for index, layer in enumerate(LAYERS):
            convolution = nn.Conv2d(
                layer.inputs,
                layer.outputs,
                KERNEL_SIDE,
                stride=layer.stride,
                padding=KERNEL_SIDE // 2,
                bias=False,
            )
            self.add_module(conv_name(index), convolution)
            norm = nn.BatchNorm2d(layer.outputs, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)
            self.add_module(norm_name(index), norm)
        self.output = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """[batch, 64] pixels to [batch, 10]."""
        hidden = inputs.reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
        for index in range(len(LAYERS)):
            convolved = self.get_submodule(conv_name(index))(hidden)
            hidden = F.relu(self.get_submodule(norm_name(index))(convolved))
        return self.output(hidden.mean(dim=(2, 3)))


class DigitsConvWorkload(PytorchWorkload, BaseDigitsConvWorkload):
    """Classify digits with a convolutional network."""

    def _make_model(self) -> nn.Module:
        """The network."""
        return _ConvNet()
