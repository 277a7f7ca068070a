"""Classification of whole photographs: the grade of retinopathy, or findings, each there or not.

A backbone, the mean of its answers over the field of view, and one linear map (Lin et al. 2014, "Network in
network"). With such a head the map of what speaks for an output is exact (Zhou et al. 2016, "Learning deep
features for discriminative localization", eq. 2): the weights of the head on the answers, whose mean over the
picture plus the bias is the output itself. See `Classification.evidence`.

Zhou et al. 2020 (DR-GAN) grade with a ResNet-50 and draw grading vectors from its penultimate features, and
read laser marks and proliferative membranes off such maps. Kim et al. 2022 sort photographs by epiretinal
membrane with a ResNet-152. Both are presets.

The ordinal loss is the likelihood of the proportional-odds model (McCullagh 1980, "Regression models for
ordinal data"): one severity s and increasing cuts, P(grade > k) = sigmoid(s - cut_k).

Against rare grades and findings: drawing them as often as the others (`balance`), weights in the loss
(`class_weights`), focal loss (Lin et al. 2017), stronger changes of the pictures (`strong`), and mixup (Zhang
et al. 2018): x = l x_i + (1 - l) x_j with the loss l L(y_i) + (1 - l) L(y_j), l ~ Beta(a, a).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import losses
from fundusforge.models.recipe import Phase, View
from fundusforge.models.selfsupervised import Levels
from fundusforge.severity import GRADES

GRADE = "grade"
"""The target that is a grade and not a finding."""
GAMMA = 2.0
"""Exponent of the focal loss (Lin et al. 2017)."""
STRONG_ZOOM = (0.8, 1.25)
"""Range of the zoom of strong changes."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Grade of retinopathy, or findings of the whole image."""

    kind: Literal["classifier"] = "classifier"
    targets: tuple[str, ...] = (GRADE,)
    """Either `grade` alone, or findings, each there or not: names of masks (laser_marks, epiretinal_membrane,
    proliferative_membranes) or labels of the records."""
    backbone: str = "retina"
    """`retina`: the small encoder of the family selfsupervised; or any convolutional timm model (resnet50,
    vgg16, inception_v3, resnet152)."""
    start: Literal["random", "retina", "imagenet"] = "random"
    """First weights of the backbone: `retina`, the embedded features of the retina; `imagenet`, downloaded by
    timm. The trained model says which it had."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels of each level of the backbone `retina`."""
    pool: Literal["last", "all"] = "last"
    """Mean answers of the last level, or of all levels: small findings are seen best by the finer ones."""
    size: int = 512
    """Side in pixels at which the network reads whole photographs, in training and after."""
    loss: Literal["cross_entropy", "focal", "ordinal"] = "cross_entropy"
    """`focal`: what is known already counts less; `ordinal`: grades as steps of one severity."""
    balance: bool = True
    """Learn from grades equally often, or from photographs with and without a finding."""
    class_weights: tuple[float, ...] = ()
    """How often each grade counts in the loss, or each finding where it is there; once if not given."""
    mixup: float = 0.0
    """Parameter of the Beta distribution by which photographs are mixed in training; 0 mixes none."""
    vertical: bool = False
    """Also mirror upside down in training."""
    tint: bool = False
    """Also change colours and gamma mildly in training."""
    strong: bool = False
    """Change photographs as for segmentation in training: any rotation, zoom, warp, colours, blur, noise."""
    dropout: float = 0.0
    """Share of the mean answers that are left out at random in training."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW; 0 is plain Adam."""

    def __post_init__(self) -> None:
        """Refuse targets, starts and losses that do not go together."""
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must be given, each once, not {self.targets}")
        if GRADE in self.targets and len(self.targets) > 1:
            raise ValueError(f"targets are either {GRADE!r} alone or findings, not {self.targets}")
        if self.loss == "ordinal" and not self.graded:
            raise ValueError("the ordinal loss is for grades, not for findings")
        own = self.backbone == "retina"
        if self.start != "random" and own != (self.start == "retina"):
            raise ValueError(f"the backbone {self.backbone} has no start {self.start!r}")
        if self.size < 32 or len(self.widths) < 2:
            raise ValueError(
                f"size must be at least 32 and widths two or more, not {self.size}, {self.widths}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.class_weights and len(self.class_weights) != self.outputs:
            raise ValueError(f"expected {self.outputs} class weights, not {len(self.class_weights)}")
        if self.mixup < 0 or min(self.class_weights, default=1.0) <= 0:
            raise ValueError("mixup must not be negative, and class weights must be positive")

    @property
    def graded(self) -> bool:
        """Whether the model grades; else it tells findings."""
        return self.targets == (GRADE,)

    @property
    def outputs(self) -> int:
        """Logits per photograph: one for each grade, or for each finding."""
        return len(GRADES) if self.graded else len(self.targets)

    def build(self) -> Classifier:
        """Return the recipe with fresh, random networks; nothing is read or downloaded."""
        return Classifier(self)


class Timm(nn.Module):
    """A timm model without its head, as `Levels` answers."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, pretrained: bool = False) -> None:
        """Build the model; only if `pretrained`, timm downloads its weights.

        Raises:
            ValueError: timm knows no such model.
        """
        super().__init__()
        import timm

        if not timm.is_model(name):
            raise ValueError(f"unknown backbone {name!r}: neither `retina` nor a model of timm")
        self.net = timm.create_model(name, pretrained=pretrained, features_only=True)
        known = timm.get_pretrained_cfg(name, allow_unregistered=True)
        for what, values in (("mean", known and known.mean), ("std", known and known.std)):
            values = torch.tensor(values or (0.5, 0.5, 0.5)).view(1, 3, 1, 1)
            self.register_buffer(what, values, persistent=False)
        levels: Any = self.net.feature_info
        self.channels: tuple[int, ...] = tuple(levels.channels())

    def maps(self, images: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) in [-1, 1] to the answers of each level, the finest first."""
        return self.net(((images + 1) / 2 - self.mean) / self.std)


class Classification(nn.Module):
    """Backbone, mean over the picture, linear head."""

    encoder: Levels | Timm
    cuts: Cuts | None

    def __init__(self, c: ClassifierConfig) -> None:
        """Build the network that the configuration names, with random weights."""
        super().__init__()
        encoder = Levels(c.widths) if c.backbone == "retina" else Timm(c.backbone)
        self.encoder, channels = encoder, encoder.channels
        self.levels = len(channels) if c.pool == "all" else 1
        self.last = nn.Identity()
        """Passes the last level's answers on: where Grad-CAM listens."""
        self.dropout = nn.Dropout(c.dropout)
        ordinal = c.loss == "ordinal"
        self.head = nn.Linear(sum(channels[-self.levels :]), 1 if ordinal else c.outputs)
        self.cuts = Cuts(c.outputs) if ordinal else None

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) in [-1, 1] to logits (N, outputs).

        Of grades, the softmax of the logits is their probability; of findings, the sigmoid.
        """
        return self.logits(self.features(self.maps(images)))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) in [-1, 1] to the answers that are averaged, the finest level first.

        They weigh as much as the field of view covers each place, and 1 on average: what lies outside it,
        where the image is black (-1), neither speaks for an output nor against it.
        """
        inside = (images.amax(1, keepdim=True) > -1).to(images.dtype)
        kept = [within(level, inside) for level in self.encoder.maps(images)[-self.levels :]]
        return [*kept[:-1], self.last(kept[-1])]

    def features(self, maps: list[Tensor]) -> Tensor:
        """Mean answers (N, D): the penultimate features."""
        return torch.cat([level.mean((2, 3)) for level in maps], 1)

    def logits(self, features: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, outputs)."""
        answer = self.head(self.dropout(features))
        return self.cuts(answer) if self.cuts is not None else answer

    def evidence(self, maps: list[Tensor]) -> Tensor:
        """Map answers to what speaks for each output at each place (N, head outputs, h, w), at the finest.

        The mean over the places plus the head's bias is the head's answer (of sides that double from level to
        level): the logit of a grade or finding, or the severity of an ordinal head.
        """
        weights = self.head.weight.split([level.shape[1] for level in maps], 1)
        size = maps[0].shape[2:]
        found = [F.conv2d(m, w[..., None, None]) for m, w in zip(maps, weights, strict=True)]
        return torch.stack([F.interpolate(each, size, mode="bilinear") for each in found]).sum(0)


def within(level: Tensor, inside: Tensor) -> Tensor:
    """Weigh answers (N, C, h, w) by a field of view (N, 1, H, W) of 0 and 1; the mean weight is 1."""
    share = F.adaptive_avg_pool2d(inside, (level.shape[2], level.shape[3]))
    return level * (share / share.mean((2, 3), keepdim=True).clamp_min(1e-6))


class Cuts(nn.Module):
    """Increasing cuts through one severity: McCullagh's proportional odds."""

    def __init__(self, grades: int) -> None:
        """Start with cuts one apart, the middle one at 0."""
        super().__init__()
        self.first = nn.Parameter(torch.tensor(-(grades - 2) / 2))
        self.steps = nn.Parameter(torch.full((grades - 2,), 0.5413))  # softplus gives 1

    def forward(self, severity: Tensor) -> Tensor:
        """Map severities (N, 1) to log-probabilities of the grades (N, grades)."""
        steps = F.softplus(self.steps.float())
        cuts = self.first.float() + torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        below = F.logsigmoid(cuts - severity.float())  # (N, grades - 1), of being at most k
        above = F.logsigmoid(severity.float() - cuts)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which loses no digits
        between = below[:, 1:] + above[:, :-1] + torch.log(-torch.expm1(-steps))
        return torch.cat([below[:, :1], between, above[:, -1:]], 1)


class Classifier:
    """Recipe: one phase, AdamW."""

    def __init__(self, c: ClassifierConfig) -> None:
        """Build networks and optimizer."""
        self.config = c
        net = Classification(c)
        self.nets = nn.ModuleDict({"net": net})
        optimizer = torch.optim.AdamW(net.parameters(), c.lr, weight_decay=c.weight_decay)
        self.phases = (Phase("main", ("net",), optimizer),)
        self.ema = ("net",)
        self.view = View(
            size=c.size,
            augment="segmentation" if c.strong else "classification",
            scale=STRONG_ZOOM if c.strong else (1.0, 1.0),
            vertical=c.vertical,
            tint=c.tint,
            labels=() if c.graded else c.targets,
            balance="images" if not c.balance else "grades" if c.graded else "labels",
        )

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Loss of what is known of each photograph; what is unknown weighs nothing."""
        image, mixup = batch["image"], self.config.mixup
        if not mixup:
            return {"classification": self._loss(self.nets["net"](image).float(), batch)}
        share = torch.distributions.Beta(mixup, mixup).sample().item()
        order = torch.randperm(len(image)).to(image.device)
        other = {name: batch[name][order] for name in ("grade", "labels") if name in batch}
        logits = self.nets["net"](share * image + (1 - share) * image[order]).float()
        loss = share * self._loss(logits, batch) + (1 - share) * self._loss(logits, other)
        return {"classification": loss}

    def _loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Loss of logits (N, outputs) against what is known."""
        c, focal = self.config, self.config.loss == "focal"
        often = logits.new_tensor(c.class_weights) if c.class_weights else None
        if c.graded:
            return grade_loss(logits, batch["grade"], focal=focal, often=often)
        labels = batch["labels"]
        known = (labels >= 0).float()
        if often is not None:
            known = known * torch.where(labels > 0, often, torch.ones_like(often))
        return (losses.focal if focal else losses.bce)(logits, labels.clamp_min(0), known)

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Images above; below, what speaks for the first finding, or for the worst grade."""
        net, image = cast(Classification, nets["net"]), batch["image"]
        channel = -1 if self.config.graded else 0
        evidence = net.evidence(net.maps(image))[:, channel, None].relu()
        shown = evidence / evidence.amax((2, 3), keepdim=True).clamp_min(1e-6)
        shown = F.interpolate(shown, image.shape[2:], mode="nearest").expand_as(image)
        return torch.cat([image, shown * 2 - 1], 2)


def grade_loss(logits: Tensor, grades: Tensor, *, focal: bool = False, often: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits (N, K) with grades (N,), or focal loss; grades of -1 weigh nothing.

    Args:
        logits: (N, K).
        grades: (N,) int64, 0 to K - 1, or -1.
        focal: What is known already counts less.
        often: (K,) how often each grade counts; once if None.
    """
    error = F.cross_entropy(logits, grades, reduction="none", ignore_index=-1)
    if focal:
        error = (1 - torch.exp(-error)).pow(GAMMA) * error
    weights = (grades >= 0).float()
    if often is not None:
        weights = weights * often[grades.clamp_min(0)]
    return losses.masked_mean(error, weights)


def start_from_imagenet(net: Classification, c: ClassifierConfig) -> None:
    """Give the backbone the ImageNet weights of timm, which downloads them if they are not here yet.

    Raises:
        ValueError: They cannot be had.
    """
    try:
        weights = Timm(c.backbone, pretrained=True).state_dict()
    except Exception as error:  # the hub raises anything when it cannot be reached
        raise ValueError(
            f"ImageNet weights of {c.backbone} cannot be had ({error}); take --model.start random, or the "
            "backbone retina with --model.start retina"
        ) from error
    net.encoder.load_state_dict(weights)
