"""Distillation as TinyViT does it (Wu et al. 2022, arXiv 2207.10666): the teacher speaks once, and is written down.

    python -m cxrlib teach TEACHER --data STORE --recipe RECIPE --out LOGITS

A teacher is large and slow, and says the same of the same view each time. What the student will see is fixed by (seed, epoch), so
every view can be shown to the teacher beforehand, and its logits stored: 2 bytes a finding. Training then costs what it cost
without a teacher.
"""

from cxrlib.distillation.logits import LogitStore, make_logits
from cxrlib.distillation.teacher import Teacher, load_teacher

__all__ = ["LogitStore", "Teacher", "load_teacher", "make_logits"]
