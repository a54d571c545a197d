"""Pre-training: an encoder learns from images alone, before any label is shown.

    loop.py      pretrain -> setup -> fit -> step: read this first
    setup.py     data, encoder, optimizer, resuming
    gmml.py      GMML: paint back what was overwritten
    dino.py      DINO: a student agrees with a slower teacher about views of one image
    views.py     random crops, light, blur
    methods.py   the two as the loop sees them
    fields.py    what a run is told
    recipes.py   named runs
    clock.py     what changes along the run
"""

from cxrlib.pretraining.loop import pretrain

__all__ = ["pretrain"]
