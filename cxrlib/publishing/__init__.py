"""Handing a trained model on: a folder as the hub reads it, with a model card made from the run, and an ONNX file.

    python -m cxrlib publish RUN FOLDER
    python -m cxrlib export RUN OUT.onnx
"""

from cxrlib.publishing.hub import Preprocessing, Published, load, publish
from cxrlib.publishing.subgroups import subgroup_aurocs, subgroups_of

__all__ = ["Preprocessing", "Published", "load", "publish", "subgroup_aurocs", "subgroups_of"]
