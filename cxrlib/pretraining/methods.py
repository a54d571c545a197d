"""GMML and DINO as the loop sees them: what to build, the loss of a step, and which encoder is kept.

`model` is trained by gradients. `follower` is not: DINO's teacher, or nothing. Both are in every checkpoint.
"""

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cxrlib.data.augment import normalise
from cxrlib.models.cost import macs
from cxrlib.models.vit import VisionTransformer
from cxrlib.pretraining.clock import Clock, cosine
from cxrlib.pretraining.dino import Dino, Teacher, dino_loss, entropies, follow, next_centre, sharpened
from cxrlib.pretraining.gmml import Gmml, corrupt, l1_on_corrupted
from cxrlib.pretraining.fields import DinoRecipe, GmmlRecipe
from cxrlib.pretraining.views import View, draw_view


class GmmlMethod:
    """Views are corrupted, painted back, and compared where they were corrupted."""

    def __init__(self, recipe: GmmlRecipe):
        self.recipe = recipe
        self.view = View(recipe.image_size, recipe.scale, recipe.jitter, recipe.jitter_chance, recipe.blur_chance)

    def build(self, encoder: VisionTransformer) -> tuple[nn.Module, nn.Module]:
        """(model, follower)."""
        return Gmml(encoder, in_channels=len(self.recipe.mean)), nn.Identity()

    def macs(self, model: nn.Module) -> float:
        """Multiply-accumulates per stored image: of the forward passes of all its views."""
        return self.recipe.views * macs(model, image_size=self.recipe.image_size)

    def loss(
        self, fabric: Fabric, model: nn.Module, follower: nn.Module, img_B1YX: Tensor, clock: Clock
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step, and what else is worth a place in the log."""
        recipe = self.recipe
        view_B1YX = draw_view(img_B1YX.repeat(recipe.views, 1, 1, 1), self.view)
        clean_BIYX = normalise(view_B1YX, mean=recipe.mean, std=recipe.std)
        corrupted_BIYX, mask_BYX = corrupt(
            clean_BIYX, share=recipe.share, alien_chance=recipe.alien_chance, alien_share=recipe.alien_share, align=recipe.align
        )
        return l1_on_corrupted(model(corrupted_BIYX), clean_BIYX, mask_BYX), {"corrupted": mask_BYX.float().mean()}

    def before_step(self, model: nn.Module, clock: Clock) -> None:
        """Nothing is done to the gradient."""

    def after_step(self, model: nn.Module, follower: nn.Module, clock: Clock) -> None:
        """Nothing follows."""

    def encoder(self, model: nn.Module, follower: nn.Module) -> nn.Module:
        """The encoder that is worth keeping: the trained one itself, not an average of it."""
        return model.encoder


class DinoMethod:
    """The student learns to say of every view what the teacher says of another."""

    def __init__(self, recipe: DinoRecipe):
        self.recipe = r = recipe
        first, second, small = r.blur_chances
        self.large = [View(r.image_size, r.scale, r.jitter, r.jitter_chance, chance) for chance in (first, second)]
        self.small = View(r.local_size, r.local_scale, r.jitter, r.jitter_chance, small)

    def build(self, encoder: VisionTransformer) -> tuple[nn.Module, nn.Module]:
        """(student, teacher), with the same weights."""
        r = self.recipe
        student = Dino(encoder, hidden=r.hidden, bottleneck=r.bottleneck, prototypes=r.prototypes)
        return student, Teacher(student, r.build(drop_path=0.0))

    def macs(self, model: nn.Module) -> float:
        """Multiply-accumulates per stored image, of all its views.

        The teacher's passes need no gradient, so they count for a third: a gradient costs two more passes.
        """
        large, small = (macs(model, image_size=size) for size in (self.recipe.image_size, self.recipe.local_size))
        return 2 * large + self.recipe.local_views * small + 2 * large / 3

    def loss(
        self, fabric: Fabric, model: nn.Module, follower: Teacher, img_B1YX: Tensor, clock: Clock
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step, and what tells a collapse. The centre is moved afterwards."""
        r = self.recipe
        views = [draw_view(img_B1YX, view) for view in self.large + [self.small] * r.local_views]
        views = [normalise(view_B1YX, mean=r.mean, std=r.std) for view_B1YX in views]
        large, small = torch.cat(views[:2]), views[2:]
        shape = (-1, len(img_B1YX), r.prototypes)
        with torch.no_grad(), fabric.autocast():
            teacher_GBK = follower(large).reshape(shape).float()
        student_VBK = model(large, *([torch.cat(small)] if small else [])).reshape(shape)
        temperature = self.teacher_temp(clock)
        loss = dino_loss(
            student_VBK, teacher_GBK, follower.centre_K, student_temp=r.student_temp, teacher_temp=temperature
        )
        each, mean = entropies(sharpened(teacher_GBK.flatten(0, 1), follower.centre_K, temperature))
        mean_K = fabric.all_reduce(teacher_GBK.mean(dim=(0, 1)), reduce_op="mean")
        follower.centre_K.copy_(next_centre(follower.centre_K, mean_K, r.centre_momentum))
        return loss, {"answer_entropy": each, "mean_answer_entropy": mean, "centre_norm": follower.centre_K.norm()}

    def teacher_temp(self, clock: Clock) -> float:
        """The teacher's temperature: a line from its start to its end (the published code takes a stair per epoch)."""
        warmup = self.recipe.teacher_temp_epochs * clock.epoch_steps
        done = min(clock.step / warmup, 1.0) if warmup else 1.0
        return self.recipe.teacher_temp_start + done * (self.recipe.teacher_temp - self.recipe.teacher_temp_start)

    def before_step(self, model: nn.Module, clock: Clock) -> None:
        """In the first epochs the prototypes get no gradient: they would only chase random answers."""
        if clock.step < self.recipe.frozen_epochs * clock.epoch_steps:
            model.module.head.last_KE.grad = None

    def after_step(self, model: nn.Module, follower: Teacher, clock: Clock) -> None:
        """The teacher follows the student, ever more slowly."""
        follow(follower, model.module, cosine(clock, self.recipe.momentum, 1.0))

    def encoder(self, model: nn.Module, follower: Teacher) -> nn.Module:
        """The teacher's: an average over many steps, and the better one throughout (section 4.2.2 and fig. 6)."""
        return follower.encoder


Method = GmmlMethod | DinoMethod
METHODS: dict[str, type[Method]] = {"gmml": GmmlMethod, "dino": DinoMethod}
