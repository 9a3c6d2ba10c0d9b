"""What pix2pixHD (Wang et al. 2018) adds to its ResNet generator, in 2D and 3D: local enhancers and feature encoder.

Its global generator is ``ResNetGenerator(num_downs=4, conv_bias=True)``. At their defaults the networks are the
published ones, value for value, and ``import_checkpoint`` reads the published files into them.
"""

import torch
from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.blocks import init_weights, is_tracing, use_channels_last
from monai_synth.networks.resnet_parts import LayerChain, ResNetParts, check_size


class _Enhancer(nn.Module):
    """Half the image, add what the coarser network makes of the half image, refine, double."""

    def __init__(self, down: LayerChain, up: LayerChain):
        super().__init__()
        self.down = down
        self.up = up

    def forward(self, condition: Tensor, coarse: Tensor) -> Tensor:
        return self.up(self.down(condition) + coarse)


class LocalEnhancer(nn.Module):
    """The generator of pix2pixHD for large images: a global trunk at half size, and an enhancer at full size.

    The trunk is a :class:`monai_synth.networks.resnet.ResNetGenerator` of ``channels * 2**num_enhancers`` without its
    last convolution. The publication trains that one first and starts from it
    (``network.trunk.layers.load_state_dict(generator.layers[:-3].state_dict())``), then trains the enhancers alone for
    some epochs and both together at last.

    State-dict keys: ``trunk.layers.{i}``, ``enhancers.{n}.down|up.layers.{i}``, the enhancer at full size last.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the condition (one-hot labels, edges and features included).
        out_channels: channels of the prediction, in [-1, 1].
        channels: width at full size.
        num_downs: halvings inside the trunk.
        num_blocks: residual blocks of the trunk.
        num_enhancers: how often the condition is halved in front of the trunk, with one enhancer for each.
        num_local_blocks: residual blocks of each enhancer.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``. Every convolution has a bias.
        padding: of the residual blocks: ``"reflect"`` (published), ``"replicate"`` or ``"zero"``; see
            :class:`monai_synth.networks.resnet.ResNetGenerator`.
        upsample: ``"transposed"`` (published) or ``"resize"``, in trunk and enhancers: nearest resize, then a 3x3
            convolution, which avoids the checkerboard of transposed convolutions (Odena et al. 2016).
        activation_checkpointing: in training compute activations twice instead of keeping them, all but one per
            block and level. This network is made for images whose activations fill a GPU.
        init_type: start values, see :func:`monai_synth.networks.blocks.init_weights`.
        init_gain: standard deviation or gain of the start values.
        channels_last: see :func:`monai_synth.networks.blocks.use_channels_last`.

    Attributes:
        stride: each size of the condition must be a multiple of it.
        min_size: each size of the condition must be at least this.

    Raises:
        ConfigError: for an option out of range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: int = 32,
        num_downs: int = 4,
        num_blocks: int = 9,
        num_enhancers: int = 1,
        num_local_blocks: int = 3,
        norm: str = "instance",
        padding: str = "reflect",
        upsample: str = "transposed",
        activation_checkpointing: bool = False,
        init_type: str = "normal",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        parts = ResNetParts(spatial_dims=spatial_dims, norm=norm, conv_bias=True, padding=padding, upsample=upsample)
        if num_downs < 1 or num_blocks < 0 or num_enhancers < 1 or num_local_blocks < 0:
            raise ConfigError(
                f"num_downs={num_downs}, num_blocks={num_blocks}, num_enhancers={num_enhancers}, "
                f"num_local_blocks={num_local_blocks}: there must be at least one halving and one enhancer and no "
                "fewer than 0 blocks (published: 4, 9, 1, 3). Without an enhancer it is a ResNetGenerator."
            )
        self.activation_checkpointing = activation_checkpointing
        widths = [channels * 2 ** (num_enhancers + level) for level in range(num_downs + 1)]
        self.trunk = LayerChain(
            [
                parts.stem(in_channels, widths[0]),
                *(parts.down(width) for width in widths[:-1]),
                *(parts.block(widths[-1]) for _ in range(num_blocks)),
                *(parts.up(width) for width in reversed(widths[1:])),
            ],
            activation_checkpointing=activation_checkpointing,
        )
        self.enhancers = nn.ModuleList()
        for finer in reversed(range(num_enhancers)):  # how many enhancers come after this one
            width = channels * 2**finer
            up = [*(parts.block(width * 2) for _ in range(num_local_blocks)), parts.up(width * 2)]
            self.enhancers.append(
                _Enhancer(
                    LayerChain(
                        [parts.stem(in_channels, width), parts.down(width)],
                        activation_checkpointing=activation_checkpointing,
                    ),
                    LayerChain(
                        up if finer else [*up, parts.head(width, out_channels)],
                        activation_checkpointing=activation_checkpointing,
                    ),
                )
            )
        self.halve = Pool["avg", spatial_dims](3, stride=2, padding=1, count_include_pad=False)
        self.stride = 2 ** (num_downs + num_enhancers)
        self.min_size = parts.min_size(2**num_downs) * 2**num_enhancers
        self.min_values = parts.min_values
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Turn a condition into an image of the same size.

        Args:
            condition: ``(B, in_channels, *spatial)``, each size a multiple of ``stride`` and at least ``min_size``.
            noise: not used; the variety of pix2pixHD comes from the features in the condition.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1].

        Raises:
            GeometryError: if a size is no such multiple, or too small.
        """
        check_size(condition, self.stride, self.min_size, self.min_values)
        pyramid: list[Tensor] = [condition]
        for _ in range(len(self.enhancers)):
            pyramid.append(self.halve(pyramid[-1]))
        x = self.trunk(pyramid.pop())
        for enhancer in self.enhancers:
            x = enhancer(pyramid.pop(), x)
        return x


class FeatureEncoder(nn.Module):
    """The feature encoder of pix2pixHD: what each object of an image looks like, in a few channels.

    A small encoder-decoder, whose output is averaged over each instance. In training the generator gets these maps of
    the real image beside the labels; at inference those of another image, or of a cluster of them.

    State-dict keys: ``layers.{i}``. There is neither a choice of upsampling, because the average over an instance
    leaves nothing of a checkerboard, nor activation checkpointing, because the network is light.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the image.
        out_channels: number of features.
        channels: width at full size.
        num_downs: number of halvings.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``. Every convolution has a bias.
        init_type: start values, see :func:`monai_synth.networks.blocks.init_weights`.
        init_gain: standard deviation or gain of the start values.
        channels_last: see :func:`monai_synth.networks.blocks.use_channels_last`.

    Attributes:
        stride: each size of the image must be a multiple of it.
        min_size: each size of the image must be at least this.

    Raises:
        ConfigError: for an option out of range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: int = 16,
        num_downs: int = 4,
        norm: str = "instance",
        init_type: str = "normal",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        # Without residual blocks their padding is nobody's: "zero" asks for no minimum size.
        parts = ResNetParts(spatial_dims=spatial_dims, norm=norm, conv_bias=True, padding="zero")
        if num_downs < 1:
            raise ConfigError(f"num_downs={num_downs} leaves nothing to encode; choose 1 or more (published: 4).")
        widths = [channels * 2**level for level in range(num_downs + 1)]
        self.layers = nn.Sequential(
            *parts.stem(in_channels, channels),
            *(layer for width in widths[:-1] for layer in parts.down(width)),
            *(layer for width in reversed(widths[1:]) for layer in parts.up(width)),
            *parts.head(channels, out_channels),
        )
        self.stride = 2**num_downs
        self.min_size = parts.min_size(self.stride)
        self.min_values = parts.min_values
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, image: Tensor, instances: Tensor) -> Tensor:
        """Encode an image, one vector per instance.

        Args:
            image: ``(B, in_channels, *spatial)``, each size a multiple of ``stride`` and at least ``min_size``.
            instances: ``(B, 1, *spatial)``, see :func:`average_over_instances`. Without instances take the labels.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1], constant in each instance of each image.

        Raises:
            GeometryError: if a size is no such multiple, too small, or not that of ``instances``.
        """
        check_size(image, self.stride, self.min_size, self.min_values)
        return average_over_instances(self.layers(image), instances)


def average_over_instances(features: Tensor, instances: Tensor) -> Tensor:
    """Replace each value by the mean over its instance, image by image and channel by channel.

    Args:
        features: ``(B, C, *spatial)``.
        instances: ``(B, 1, *spatial)``, whole numbers of any range and type. The same number in two images means two
            instances.

    Returns:
        As ``features``. The gradient of a value is shared by its instance.

    Raises:
        GeometryError: if the shapes do not belong together.
    """
    if not is_tracing():
        _check_instances(features, instances)
    # A float32 sum over the voxels of a volume stops growing; MPS has no float64.
    exact = torch.float32 if features.device.type == "mps" else torch.float64
    # torch cannot sort every unsigned type; int64 keeps their numbers apart.
    numbers = instances.to(exact) if instances.is_floating_point() else instances.long()
    index = torch.unique(numbers, return_inverse=True)[1].flatten(1)
    batch, channels = features.shape[:2]
    slot = (index * batch + torch.arange(batch, device=index.device).unsqueeze(1)).flatten()
    counts = torch.bincount(slot)  # 0 for an instance that only other images have
    last = features.movedim(1, -1)
    values = last.reshape(-1, channels).to(exact)
    sums = torch.zeros(counts.shape[0], channels, dtype=values.dtype, device=values.device).index_add(0, slot, values)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    return means[slot].reshape(last.shape).movedim(-1, 1).to(features.dtype)


def _check_instances(features: Tensor, instances: Tensor) -> None:
    is_one_map = instances.ndim == features.ndim and instances.shape[1] == 1
    if not is_one_map or instances.shape[0] != features.shape[0] or instances.shape[2:] != features.shape[2:]:
        raise GeometryError(
            f"The instances have shape {list(instances.shape)}, but the features {list(features.shape)}: each image "
            "needs a map of one channel and its own size. Resample the instances to the image, by the nearest value."
        )
