"""Models that paint, annotate or read images, a family per file; the union of configurations is the list."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from fundusforge.models.classifier import ClassifierConfig
from fundusforge.models.drgan import DRGANConfig
from fundusforge.models.edsr import EDSRConfig
from fundusforge.models.encoder import EncoderConfig
from fundusforge.models.flow import FlowConfig
from fundusforge.models.pggan import PGGANConfig
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.models.selfsupervised import SelfSupervisedConfig
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.models.unet import UNetConfig
from fundusforge.models.vae import VAEConfig
from fundusforge.severity import LESIONS

AnyConfig = (
    UNetConfig
    | Pix2PixConfig
    | DRGANConfig
    | FlowConfig
    | PGGANConfig
    | StyleGANConfig
    | EncoderConfig
    | VAEConfig
    | EDSRConfig
    | SelfSupervisedConfig
    | ClassifierConfig
)
ModelConfig = Annotated[AnyConfig, Field(discriminator="kind")]

FAMILIES: dict[str, type] = {family.kind: family for family in get_args(get_args(ModelConfig)[0])}

PRESETS: dict[str, dict[str, tuple[str, AnyConfig]]] = {
    "unet": {
        "drive": (
            "small U-Net for DRIVE at its own resolution (prepare with --size 584); 30 minutes on 2 cores",
            UNetConfig(diameter=584, tta=True),
        ),
        "embedded": (
            "vessels on any camera: local contrast in, wide zoom; the embedded segmenter",
            UNetConfig(
                inputs="local",
                diameter=960,
                crop=192,
                widths=(16, 32, 64, 128, 128),
                zoom=(0.7, 1.6),
                balance_cameras=True,
                calibration="augmented",
            ),
        ),
        "lesions": (
            "microaneurysms, haemorrhages, hard and soft exudates at 1280 px; the embedded finder of lesions",
            UNetConfig(
                masks=LESIONS,
                inputs="both",
                diameter=1280,
                crop=128,
                widths=(16, 32, 64, 128, 128),
                focus=0.85,
                positive_weight=10.0,
                zoom=(0.75, 1.35),
            ),
        ),
        "disc": (
            "optic disc at 256 px",
            UNetConfig(
                masks=("disc",), diameter=256, crop=160, widths=(16, 32, 64, 128, 128), zoom=(0.7, 1.7)
            ),
        ),
        "beers": (
            "48 px patches of grey, gamma and CLAHE, 8 px overlap (Beers et al. 2018)",
            UNetConfig(inputs="grey", crop=48, patch=48, overlap=8, zoom=(1.0, 1.0)),
        ),
        "kim": (
            "feature pyramid network over ResNet-34 (Kim et al. 2022)",
            UNetConfig(architecture="fpn", crop=256, diameter=1024, lr=5e-4),
        ),
    },
    "pix2pix": {
        "default": (
            "512 px photographs on vessels, disc and field of view; the embedded generator",
            Pix2PixConfig(),
        ),
        "small": (
            "the same at 256 px, for a first look on a CPU",
            Pix2PixConfig(size=256, widths=(16, 32, 64, 128, 256, 256)),
        ),
        "large": (
            "1024 px, wider, three discriminator scales; for a GPU",
            Pix2PixConfig(size=1024, widths=(32, 64, 128, 256, 512, 512, 512, 512), scales=3),
        ),
        "isola": (
            "the published objective alone: vessels in, logistic loss, L1 100, no code, no noise",
            Pix2PixConfig(
                masks=("vessels",),
                size=256,
                widths=(64, 128, 256, 512, 512, 512, 512),
                residual_blocks=0,
                code=False,
                noise=False,
                discriminator_widths=(64, 128, 256, 512),
                scales=1,
                spectral_norm=False,
                adversarial="logistic",
                feature_matching=0.0,
            ),
        ),
    },
    "drgan": {
        "zhou": (
            "1280 px, eight masks, severity 0 to 4 (Zhou et al. 2020: 20 epochs, batches of 16); for GPUs",
            DRGANConfig(),
        ),
        "gpu512": (
            "512 px on vessels, disc and four lesions, half as wide; for a GPU",
            DRGANConfig(masks=("vessels", "disc", *LESIONS), size=512, width=32, steering=1.0, pixels=20.0),
        ),
        "small": (
            "256 px, a quarter as wide, for a first look on a CPU",
            DRGANConfig(
                masks=("vessels", "disc", *LESIONS), size=256, width=16, steering=1.0, pixels=20.0, lr=2e-4
            ),
        ),
    },
    "flow": {
        "small": (
            "256 px, for a CPU",
            FlowConfig(),
        ),
        "gpu512": (
            "512 px, wider; for a GPU",
            FlowConfig(size=512, widths=(128, 256, 384, 512), style=512, steps=25),
        ),
    },
    "pggan": {
        "beers": (
            "512 px photographs with vessels (Beers et al. 2018, who stop after 4800kimg)",
            PGGANConfig(),
        ),
        "mri": (
            "256 px slices of four contrasts with three tumour labels (Beers et al. 2018: 4480kimg)",
            PGGANConfig(
                masks=("necrosis", "oedema", "enhancing"),
                contrasts=("t1", "t1c", "t2", "flair"),
                widths=(128, 128, 128, 128, 128, 128, 64),
            ),
        ),
        "small": (
            "128 px photographs with vessels, for a first look on a CPU",
            PGGANConfig(widths=(64, 64, 64, 64, 48, 32), mirror=True, generator_rate=0.3),
        ),
    },
    "stylegan": {
        "kim2022": (
            "1024 px photographs, first generation, learning rate 0.001 (Kim et al. 2022)",
            StyleGANConfig(
                generation=1,
                masks=(),
                widths=(512, 512, 512, 512, 256, 128, 64, 32, 16),
                lr=1e-3,
                gamma=10.0,
                penalty_every=1,
                adaptive=False,
            ),
        ),
        "paper512": (
            "512 px photographs with vessels, second generation; for a GPU",
            StyleGANConfig(widths=(512, 512, 512, 512, 512, 256, 128, 64), mirror=True),
        ),
        "small": (
            "64 px photographs with vessels, judged in pairs; recommended for few photographs",
            StyleGANConfig(
                latent=64,
                style=64,
                widths=(128, 128, 64, 32, 16),
                mirror=True,
                lr=2e-3,
                loss="relativistic",
                penalty_every=1,
                paths=0.0,
            ),
        ),
    },
    "encoder": {
        "beers": (
            "the discriminator's architecture on the image alone; Beers et al. stop after 320kimg",
            EncoderConfig(),
        ),
    },
    "vae": {
        "default": (
            "512 px vessel trees from a few dozen of them (after Sengupta et al. 2019)",
            VAEConfig(),
        ),
        "small": (
            "128 px, for a CPU",
            VAEConfig(size=128, patch=4, widths=(48, 96, 128), latent=64, discriminator_widths=(16, 32, 32)),
        ),
    },
    "edsr": {
        "default": (
            "photographs to twice their side: 16 blocks of 64 channels (Lim et al. 2017)",
            EDSRConfig(),
        ),
        "large": (
            "32 blocks of 256 channels (Lim et al. 2017); for a GPU",
            EDSRConfig(blocks=32, width=256, residual_scale=0.1),
        ),
        "small": (
            "8 blocks of 32 channels, for a first look on a CPU",
            EDSRConfig(blocks=8, width=32, crop=96),
        ),
    },
    "selfsupervised": {
        "retina": (
            "24 features of 512 px photographs that point at damage; about an hour on a core",
            SelfSupervisedConfig(),
        ),
    },
    "classifier": {
        "grade": (
            "grades of retinopathy from the embedded features of the retina; minutes on a CPU",
            ClassifierConfig(start="retina", pool="all", vertical=True, tint=True),
        ),
        "findings": (
            "laser marks and epiretinal membrane, each there or not; minutes on a CPU",
            ClassifierConfig(
                targets=("laser_marks", "epiretinal_membrane"),
                start="retina",
                pool="all",
                vertical=True,
                tint=True,
            ),
        ),
        "zhou": (
            "ResNet-50 with focal loss, whose features make the latent grading spaces (Zhou et al. 2020)",
            ClassifierConfig(backbone="resnet50", start="imagenet", loss="focal", lr=1e-4),
        ),
        "kim": (
            "ResNet-152 for epiretinal membrane: Adam 1e-4, batches of 10 (Kim et al. 2022)",
            ClassifierConfig(
                targets=("epiretinal_membrane",),
                backbone="resnet152",
                start="imagenet",
                vertical=True,
                lr=1e-4,
                weight_decay=0.0,
            ),
        ),
    },
}
"""Named starting points of each family; any setting can be overridden after."""

LOOPS: dict[str, dict[str, object]] = {
    "unet": {"batch": 8, "schedule": "cosine", "warmup": 800, "ema_images": 4000.0},
    "pix2pix": {"batch": 1, "ema_images": 1000.0, "channels_last": False},
    "drgan": {"batch": 16, "accumulate": 4, "ema_images": 4000.0},
    "flow": {"batch": 8, "ema_images": 4000.0, "warmup": 800, "clip": 1.0},
    "pggan": {"batch": 16, "ema_images": 10000.0, "ema_rampup": 0.05},
    "stylegan": {"batch": 16, "ema_images": 10000.0, "ema_rampup": 0.05, "patience": 12},
    "encoder": {"batch": 16, "ema_images": 2000.0},
    "vae": {
        "batch": 8,
        "ema_images": 4000.0,
        "ema_rampup": 0.05,
        "warmup": 800,
        "schedule": "cosine",
        "clip": 5.0,
    },
    "edsr": {"batch": 16, "schedule": "cosine", "ema_images": 2000.0},
    "selfsupervised": {"batch": 16, "schedule": "cosine", "warmup": 1600, "ema_images": 2000.0},
    "classifier": {"batch": 10, "schedule": "cosine", "warmup": 500, "ema_images": 1000.0},
}
"""Settings of the training loop from which each family starts; those not named keep the loop's defaults."""
