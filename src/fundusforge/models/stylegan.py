"""Style-based generators that draw an image and its masks together, and how they learn from few pictures.

What few pictures need is from Karras et al. 2020, "Training generative adversarial networks with limited
data": both kinds of pictures are changed before the discriminator sees them, with a probability that rises
while its opinion of real ones gives it away that it knows them by heart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import adain, modulated
from fundusforge.models.adaptive import DRAWS, augment
from fundusforge.models.growing import Stage, at_stage, shown, stacked
from fundusforge.models.pggan import Reader
from fundusforge.models.recipe import Phase, View
from fundusforge.models.styles import GRADES, MANY, Generator, StyleSettings

SURE = 0.6
"""Mean sign of the discriminator's opinion of real pictures that is aimed at (Karras et al. 2020); of what it
thinks better of them than of drawn ones, where it judges pairs."""
_FORGET = 0.99
"""What the mean length of paths keeps with every measurement."""


@dataclass(frozen=True)
class StyleGANConfig(StyleSettings):
    """Style-based generator of photographs, or of magnetic-resonance contrasts, with their masks."""

    kind: Literal["stylegan"] = "stylegan"

    def build(self) -> StyleGAN:
        """Return the recipe with fresh networks."""
        return StyleGAN(self)


class Balance(nn.Module):
    """What a training keeps about itself, learnt by gradient steps so that processes agree on it."""

    def __init__(self) -> None:
        """Begin without augmentation."""
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))
        """Probability of each change of a picture, 0 to 1."""
        self.length = nn.Parameter(torch.zeros(()))
        """Mean length of paths."""


class Draws(NamedTuple):
    """The random numbers of a batch, standard normal."""

    latents: Tensor
    """(N, latent)."""
    others: Tensor
    """(N, latent) for the fine layers where styles are mixed."""
    crossing: Tensor
    """(N, 2): whether, and from which layer on."""
    changes: Tensor
    """(N, DRAWS) for drawn pictures."""
    real_changes: Tensor
    """(N, DRAWS) for real ones."""

    @classmethod
    def of(cls, batch: dict[str, Tensor], c: StyleGANConfig, turn: int) -> Draws:
        """Cut those of the discriminator's (0) or the generator's (1) turn from a batch."""
        sizes = [c.latent, c.latent, 2, DRAWS, DRAWS]
        return cls(*batch["draws"].chunk(2, 1)[turn].split(sizes, 1))


class StyleGAN:
    """Recipe: discriminator, its penalty, generator, its penalty, and the balance between them."""

    pictures = ("paint", "read")
    """Layers that another number of channels changes."""

    def __init__(self, c: StyleGANConfig) -> None:
        """Build networks and optimizers."""
        self.config = c = c if c.gamma and c.adaptive_over else c.suited(MANY)
        discriminator = (
            Reader(c.channels, c.widths, 1, deviation=True, level=adain.Shrink)
            if c.generation == 1
            else modulated.Discriminator(c.channels, c.widths, c.conditions)
        )
        freeze(discriminator, c.frozen)
        self.nets = nn.ModuleDict(
            {"generator": Generator(c), "discriminator": discriminator, "balance": Balance()}
        )
        self.lazy_paths = 4 if c.paths and c.generation == 2 else 0
        lazy = {"discriminator": c.penalty_every, "generator": self.lazy_paths}
        adam: dict[str, torch.optim.Optimizer] = {}
        for name, every in lazy.items():
            share = every / (every + 1) if every > 1 else 1.0  # a step more for every so many
            betas = 0.0, 0.99**share
            adam[name] = torch.optim.Adam(self.nets[name].parameters(), c.lr * share, betas=betas, eps=1e-8)
        balance = torch.optim.SGD(self.nets["balance"].parameters(), 1.0)
        phases = [Phase("discriminator", ("discriminator",), adam["discriminator"])]
        if c.penalty_every > 1:
            phases += [Phase("penalty", ("discriminator",), adam["discriminator"], c.penalty_every)]
        phases += [Phase("generator", ("generator",), adam["generator"])]
        if self.lazy_paths:
            phases += [Phase("paths", ("generator",), adam["generator"], self.lazy_paths)]
        if c.adaptive or self.lazy_paths:
            phases += [Phase("balance", ("balance",), balance)]
        self.phases = tuple(phases)
        self.ema = ("generator",)
        self.view = View(
            masks=c.masks,
            contrasts=c.contrasts,
            size=c.size,
            augment="mirror" if c.mirror else "none",
            needs=c.masks,
            coverage=True,
            labels=c.findings,
            draws=2 * (2 * c.latent + 2 + 2 * DRAWS),
            halved_from=c.growth.halved_from(),
        )
        self._seen: list[tuple[Tensor, int]] = []
        self._lengths: list[Tensor] = []

    # ---- the phases ----------------------------------------------------------------------------------------

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Non-saturating logistic losses, gradient and path length penalties, and steps of the balance."""
        stage, condition = self.config.stage(images), self.asked(batch)
        generator = cast(Generator, self.nets["generator"])
        if phase in ("discriminator", "penalty"):
            return self._judged(phase, batch, condition, stage)
        if phase == "generator":
            generator.seen.fill_(images)
            draws = Draws.of(batch, self.config, 1)
            fake = self._changed(self._drawn(draws, condition, stage), draws.changes)
            on_fake = self.opinion(fake, stage, condition)
            if self.config.loss == "relativistic":
                with torch.no_grad():
                    real = self._changed(self._real(batch, stage), draws.real_changes)
                    on_real = self.opinion(real, stage, condition)
                return {"pair": F.softplus(on_real - on_fake).mean()}
            return {"drawn": F.softplus(-on_fake).mean()}
        if phase == "paths":
            return self._path_lengths(batch, condition)
        return self._balance()

    def _judged(
        self, phase: str, batch: dict[str, Tensor], condition: Tensor | None, stage: Stage
    ) -> dict[str, Tensor]:
        """Losses of the discriminator: what it thinks, and how steeply."""
        c, draws = self.config, Draws.of(batch, self.config, 0)
        relativistic, penalised = c.loss == "relativistic", phase == "penalty" or c.penalty_every == 1
        real = self._changed(self._real(batch, stage), draws.real_changes).requires_grad_(penalised)
        on_real = self.opinion(real, stage, condition)
        slope = steepness(on_real, real) if penalised else on_real.new_zeros(())
        weight = c.gamma / 2 * c.penalty_every
        if phase == "penalty" and not relativistic:
            return {"slope": slope * weight}
        with torch.no_grad():
            fake = self._changed(self._drawn(draws, condition, stage), draws.changes)
        on_fake = self.opinion(fake.requires_grad_(penalised and relativistic), stage, condition)
        if penalised and relativistic:
            slope = slope + steepness(on_fake, fake)
        if phase == "penalty":
            return {"slope": slope * weight}
        # The loop takes the mean over processes, and over the parts of an accumulated batch (then slower).
        if c.adaptive:
            # Of a relativistic discriminator only differences mean anything.
            opinion = (on_real - on_fake if relativistic else on_real).detach()
            self._seen.append((opinion.sign().mean(), len(opinion) * _processes()))
        found = {"slope": slope * weight} if penalised else {}
        if relativistic:
            return found | {"pair": F.softplus(on_fake - on_real).mean()}
        return found | {"real": F.softplus(-on_real).mean(), "drawn": F.softplus(on_fake).mean()}

    def asked(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Return what real pictures show, (N, conditions), which is asked of drawn ones; None if nothing."""
        c, parts = self.config, list[Tensor]()
        if "grade" in c.classes:
            grade = batch["grade"]
            parts.append(F.one_hot(grade.clamp(min=0), GRADES).float() * (grade >= 0)[:, None])
        if c.findings:
            parts.append(batch["labels"].clamp(min=0))
        return torch.cat(parts, 1) if parts else None

    def opinion(self, pictures: Tensor, stage: Stage, condition: Tensor | None) -> Tensor:
        """What the discriminator thinks of pictures (N, channels, S, S): (N, 1)."""
        net = self.nets["discriminator"]
        return net(pictures, stage if self.config.generation == 1 else condition)

    def _real(self, batch: dict[str, Tensor], stage: Stage) -> Tensor:
        return at_stage(stacked(batch), stage)

    def _drawn(self, draws: Draws, condition: Tensor | None, stage: Stage) -> Tensor:
        """Draw with fresh noise, some pictures from two vectors."""
        generator = cast(Generator, self.nets["generator"])
        layers = 2 * stage.level + 2
        first, second = (generator.mapping(z, condition) for z in (draws.latents, draws.others))
        mixes, where = torch.special.ndtr(draws.crossing).unbind(1)
        crossing = torch.where(mixes < self.config.mixing, 1 + (where * (layers - 1)).floor(), layers)
        fine = torch.arange(generator.synthesis.styles, device=first.device) >= crossing[:, None]
        styles = torch.where(fine[..., None], second[:, None], first[:, None])
        return generator.render(styles, stage, noisy=True)

    def _changed(self, pictures: Tensor, draws: Tensor) -> Tensor:
        if not self.config.adaptive:
            return pictures
        colours = 0 if self.config.contrasts else 3
        strength = cast(Balance, self.nets["balance"]).strength.detach().clamp(0, 1)
        return augment(pictures, colours, strength, draws, mirror=self.config.mirror)

    def _path_lengths(self, batch: dict[str, Tensor], condition: Tensor | None) -> dict[str, Tensor]:
        """Penalty on how differently pictures change with their styles, on half of the batch."""
        c, generator = self.config, cast(Generator, self.nets["generator"])
        draws, half = Draws.of(batch, c, 1), max(1, len(batch["draws"]) // 2)
        condition = None if condition is None else condition[:half]
        styles = generator.mapping(draws.others[:half], condition)[:, None]
        styles = styles.expand(-1, generator.synthesis.styles, -1)
        pictures = generator.render(styles, noisy=True)
        noise = torch.randn_like(pictures) / math.sqrt(pictures.shape[2] * pictures.shape[3])
        (slope,) = torch.autograd.grad((pictures * noise).sum(), styles, create_graph=True)
        lengths = slope.float().square().sum(2).mean(1).sqrt()
        mean = cast(Balance, self.nets["balance"]).length.detach()
        mean = mean + (1 - _FORGET) * (lengths.detach().mean() - mean)
        self._lengths.append(lengths.detach().mean())
        # A term of the pictures keeps every weight in the graph, also those that only shift colours.
        return {"length": (lengths - mean).square().mean() * (c.paths * self.lazy_paths) + 0 * pictures.sum()}

    def _balance(self) -> dict[str, Tensor]:
        """Steps, by gradients of size one, of the probability of a change and of the mean path length."""
        c, state = self.config, cast(Balance, self.nets["balance"])
        found: dict[str, Tensor] = {}
        if self._seen:
            sign, seen = self._seen.pop(0)
            state.strength.data.clamp_(0, 1)
            found["strength"] = -state.strength * ((sign - SURE) / (1 - SURE) * seen / c.adaptive_over)
            found["sign"] = sign
            found["augmented"] = state.strength.detach().clone()
        if self._lengths:
            length = self._lengths.pop(0)
            found["length"] = (1 - _FORGET) / 2 * (state.length - length).square()
        return found or {"nothing": 0 * state.length}

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Drawn pictures at full size, with each mask below."""
        c, generator = self.config, cast(Generator, nets["generator"])
        return shown(generator(Draws.of(batch, c, 0).latents, self.asked(batch)), len(c.masks), c.size)


def _processes() -> int:
    """Number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def steepness(opinion: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared length of the gradient of an opinion (N, 1) at pictures (N, C, S, S)."""
    (slope,) = torch.autograd.grad(opinion.sum(), pictures, create_graph=True)
    return slope.float().square().sum((1, 2, 3)).mean()


def freeze(discriminator: nn.Module, levels: int) -> None:
    """Keep the weights of what reads the picture and of so many levels after it."""
    if not levels:
        return
    if isinstance(discriminator, Reader):
        parts = [*discriminator.read[-levels:], *discriminator.shrink[-levels:]]
    else:
        net = cast(modulated.Discriminator, discriminator)
        parts = [net.read, *net.levels[:levels]]
    for part in parts:
        part.requires_grad_(False)
