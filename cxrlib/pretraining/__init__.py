"""Pre-training: an encoder learns from images alone, before any label is shown.

    loop.py      pretrain -> setup -> fit -> step: read this first
    gmml.py      GMML: paint back what was overwritten
    dino.py      DINO: a student agrees with a slower teacher about views of one image
    views.py     random crops, light, blur
    methods.py   the two as the loop sees them
    recipes.py   named settings
    clock.py     what changes along the run
"""

from cxrlib.pretraining.loop import pretrain

__all__ = ["pretrain"]
