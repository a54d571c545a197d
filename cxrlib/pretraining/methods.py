"""GMML and DINO as the loop sees them: what to build, the loss of a step, and which encoder is kept.

`model` is trained by gradients. `follower` is not: DINO's teacher, or nothing. Both are in every checkpoint.
"""

from torch import Tensor, nn

from cxrlib.data.augment import normalise
from cxrlib.models.vit import VisionTransformer
from cxrlib.pretraining.clock import Clock
from cxrlib.pretraining.gmml import Gmml, corrupt, l1_on_corrupted
from cxrlib.pretraining.recipes import GmmlRecipe
from cxrlib.pretraining.views import View, draw_view


class GmmlMethod:
    """Views are corrupted, painted back, and compared where they were corrupted."""

    def __init__(self, recipe: GmmlRecipe):
        self.recipe = recipe
        self.view = View(recipe.image_size, recipe.scale, recipe.jitter, recipe.jitter_chance, recipe.blur_chance)

    def build(self, encoder: VisionTransformer) -> tuple[nn.Module, nn.Module]:
        """(model, follower)."""
        return Gmml(encoder, in_channels=len(self.recipe.mean)), nn.Identity()

    def loss(self, model: nn.Module, follower: nn.Module, img_B1YX: Tensor, clock: Clock) -> tuple[Tensor, dict[str, Tensor]]:
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


METHODS = {"gmml": GmmlMethod}
