"""Networks of timm that are worth trying for species: what is known of them.

Licences, sizes and resolutions: timm 1.0 (`timm.get_pretrained_cfg`); those of the networks for
iNaturalist 2021: their cards on the Hugging Face hub. Where no figure is named, none is known.
"""

import dataclasses
from typing import Optional

_CARDS = "huggingface.co/timm/eva02_large_patch14_clip_336.merged2b_ft_inat21"
_MAE = "github.com/facebookresearch/mae, arXiv:2111.06377"


@dataclasses.dataclass(frozen=True)
class TimmEntry:
    """A network of timm on the Hugging Face hub.

    Attributes:
        name: NAME.TAG; the flag is `--pretrained-model timm:NAME.TAG`.
        pretraining: what it was trained on.
        image_size: side of its images in pixels; another `--image-shape` works too.
        num_parameters: without the head.
        licence: of the weights, as their publisher names it.
        figure: top-1 accuracy on a year of iNaturalist, with the side in pixels.
        source: of the figure.
    """

    name: str
    pretraining: str
    image_size: int
    num_parameters: int
    licence: str
    figure: Optional[str] = None
    source: Optional[str] = None

    @property
    def is_non_commercial(self):
        """Whether the licence allows non-commercial use only."""
        return "-nc" in self.licence


_ENTRIES = [
    # The nearest to the zoo's ImageNet-11k ResNet-152: ResNets with the activation in front. In
    # place of BatchNorm they have GroupNorm and standardised weights (arXiv:1912.11370).
    TimmEntry("resnetv2_101x1_bit.goog_in21k", "ImageNet-21k", 224, 42492480, "apache-2.0"),
    TimmEntry("resnetv2_152x2_bit.goog_in21k", "ImageNet-21k", 224, 232238208, "apache-2.0"),
    # ConvNeXts: convolutions, any image size.
    TimmEntry("convnext_tiny.in12k", "ImageNet-12k", 224, 27820128, "apache-2.0"),
    TimmEntry("convnext_base.fb_in22k", "ImageNet-22k", 224, 87566464, "apache-2.0"),
    TimmEntry(
        "convnext_base.clip_laion2b_augreg_ft_in12k",
        "LAION-2B, ImageNet-12k", 256, 87566464, "apache-2.0",
    ),
    TimmEntry(
        "convnext_large_mlp.clip_laion2b_soup_ft_in12k_320",
        "LAION-2B, ImageNet-12k", 320, 198591168, "apache-2.0",
    ),
    # Other convolutional networks.
    TimmEntry("tf_efficientnetv2_s.in21k", "ImageNet-21k", 300, 20177488, "apache-2.0"),
    TimmEntry("regnety_120.sw_in12k", "ImageNet-12k", 224, 49581544, "apache-2.0"),
    # Transformers: position embeddings are resampled for another image size.
    TimmEntry(
        "vit_base_patch16_clip_224.laion2b_ft_in12k",
        "LAION-2B, ImageNet-12k", 224, 85799424, "apache-2.0",
    ),
    TimmEntry(
        "vit_base_patch14_reg4_dinov2.lvd142m", "LVD-142M, no labels", 518, 86582016, "apache-2.0"
    ),
    TimmEntry("eva02_base_patch14_448.mim_in22k_ft_in22k", "ImageNet-22k", 448, 86348544, "mit"),
    TimmEntry(
        "eva02_large_patch14_448.mim_m38m_ft_in22k",
        "Merged-38M, ImageNet-22k", 448, 304055232, "mit",
    ),
    TimmEntry(
        "vit_large_patch16_224.mae", "ImageNet-1k, no labels", 224, 303301632, "cc-by-nc-4.0",
        "2017: 75.7 % (224 px)", _MAE,
    ),
    TimmEntry(
        "vit_huge_patch14_224.mae", "ImageNet-1k, no labels", 224, 630764800, "cc-by-nc-4.0",
        "2017: 79.3 % (224 px), 83.4 % (448 px)", _MAE,
    ),
    # Trained on iNaturalist itself, of 2021: photographs of other years' test sets may be in it.
    TimmEntry(
        "convnext_large_mlp.laion2b_ft_augreg_inat21",
        "LAION-2B, iNaturalist 2021", 384, 198591168, "cc-by-nc-4.0",
        "2021: 90.62 % (384 px), 90.95 % (448 px)", _CARDS,
    ),
    TimmEntry(
        "vit_large_patch14_clip_336.datacompxl_ft_augreg_inat21",
        "DataComp-XL, iNaturalist 2021", 336, 303507456, "cc-by-nc-4.0",
        "2021: 91.98 % (336 px)", _CARDS,
    ),
    TimmEntry(
        "eva02_large_patch14_clip_336.merged2b_ft_inat21",
        "Merged-2B, iNaturalist 2021", 336, 303645632, "cc-by-nc-4.0",
        "2021: 92.05 % (336 px)", _CARDS,
    ),
]  # fmt: skip

TIMM_CATALOGUE = {entry.name: entry for entry in _ENTRIES}
