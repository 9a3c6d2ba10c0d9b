"""The patch sampler of CUT (Park et al. 2020): feature vectors of the same places in two images.

CUT asks that a place of the synthetic image is more like the same place of the condition than like any other. This
network draws the places and projects their features to where they are compared; the loss does the comparing.
"""

import torch
from torch import Tensor, nn

from monai_synth.errors import ConfigError
from monai_synth.networks.blocks import init_weights


class PatchSampler(nn.Module):
    """Features at random places, projected by a small network per layer, of length one (netF of CUT).

    Its parameters exist from the start; those of the original come into being at its first forward, too late for an
    optimiser that was made before. State-dict keys: ``mlps.{i}.{0,2}``.

    Args:
        in_channels: width of each feature map, in the order in which :meth:`forward` gets them. CUT takes layers 0, 4,
            8, 12 and 16 of its generator: 3, 128, 256, 256 and 256.
        out_channels: length of the projected vectors.
        use_mlp: project the features; ``False`` compares them as they are, and the network has no parameters.
        init_type: start values, see :func:`monai_synth.networks.blocks.init_weights`.
        init_gain: standard deviation or gain of the start values.

    Raises:
        ConfigError: for an option out of range.
    """

    def __init__(
        self,
        *,
        in_channels: list[int],
        out_channels: int = 256,
        use_mlp: bool = True,
        init_type: str = "xavier",
        init_gain: float = 0.02,
    ):
        super().__init__()
        if len(in_channels) == 0:
            raise ConfigError("in_channels=[] names no feature map; give the width of each layer that is compared.")
        self.in_channels = list(in_channels)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels))
            if use_mlp
            else nn.Identity()
            for width in self.in_channels
        )
        init_weights(self, init_type, init_gain)

    def forward(
        self, features: list[Tensor], num_patches: int = 256, ids: list[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Sample feature maps at places that all images of a batch share.

        Args:
            features: one map ``(B, in_channels[i], *spatial)`` per layer, 2D or 3D, not necessarily of one size.
            num_patches: number of places drawn per image; a map with fewer gives all of them. Not used with ``ids``.
            ids: the places, as an earlier call returned them, to sample another image at the same; ``None`` draws new
                ones. Positions in the flattened map, last axis fastest.

        Returns:
            Per layer the vectors ``(B * num_patches, out_channels)``, image by image, and the places
            ``(num_patches,)``.

        Raises:
            ConfigError: if number or widths of the maps are not those that the sampler was built for, if the places
                are not one list per map, or if ``num_patches`` is not positive.
        """
        if len(features) != len(self.in_channels):
            raise ConfigError(
                f"{len(features)} feature maps were given to a patch sampler for {len(self.in_channels)}. "
                "Build it with in_channels naming the width of each."
            )
        if ids is not None and len(ids) != len(features):
            raise ConfigError(
                f"{len(ids)} lists of places were given for {len(features)} feature maps; pass on the ids that an "
                "earlier call returned."
            )
        if num_patches < 1:
            raise ConfigError(f"num_patches={num_patches} samples nothing; choose 1 or more (published: 256).")
        vectors: list[Tensor] = []
        places: list[Tensor] = []
        for i, mlp in enumerate(self.mlps):
            feature = features[i].flatten(2)
            width = self.in_channels[i]
            if feature.shape[1] != width:
                raise ConfigError(
                    f"Feature map {i} has {feature.shape[1]} channels, but the patch sampler was built for {width}: "
                    f"in_channels={self.in_channels}. Use the layers that it was built for, or build another."
                )
            if ids is None:
                place = torch.randperm(feature.shape[2], device=feature.device)[:num_patches]
            else:
                place = ids[i].to(feature.device)
            # (B, C, P) -> (B * P, C)
            sampled = feature.index_select(2, place).transpose(1, 2).flatten(0, 1)
            projected = mlp(sampled)
            # Not in half precision: the square of a short length, by which its gradient is divided, would be 0.
            projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
            length = torch.linalg.vector_norm(projected, dim=1, keepdim=True)
            vectors.append(projected / (length + 1e-7))  # as published; torch's normalize would differ at short vectors
            places.append(place)
        return vectors, places
