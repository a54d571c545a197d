"""Training a recipe on a store.

    loop.py         train -> setup -> fit -> train_step, validate: read this first
    setup.py        the data split, the devices, the model, resuming
    optim.py        learning rate, AdamW with layer decay, the average of the weights
    checkpoint.py   safetensors, written atomically
    runs.py         the run folder and its log
    signals.py      stopping when told to
"""

from cxrlib.training.loop import fit, train, train_step, validate
from cxrlib.training.optim import make_ema, make_optimizer, set_lr, warmup_cosine
from cxrlib.training.setup import Progress, Run, setup

__all__ = [
    "Progress",
    "Run",
    "fit",
    "make_ema",
    "make_optimizer",
    "set_lr",
    "setup",
    "train",
    "train_step",
    "validate",
    "warmup_cosine",
]
