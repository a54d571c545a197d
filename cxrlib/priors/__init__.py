"""Anatomical priors: where in each image a finding may lie (CLARiTy, arXiv 2512.16700, section 3.4).

    store = ImageStore.open("STORE")
    make_priors(store, "PRIORS", source="template", structures_of=template_source(store, 64))
    regions_BCSS = PriorStore.open("PRIORS", store).regions([0, 1, 2])

On the command line: `python -m cxrlib priors make STORE PRIORS --source template`, then `priors check PRIORS STORE`.
"""

from cxrlib.priors.moving import move_boxes, move_regions, to_patches
from cxrlib.priors.regions import Rule, region, rule_of, rules
from cxrlib.priors.sources import phantom_source, pspnet_source, template_source
from cxrlib.priors.store import PriorStore, make_priors
from cxrlib.priors.template import template

__all__ = [
    "PriorStore",
    "Rule",
    "make_priors",
    "move_boxes",
    "move_regions",
    "phantom_source",
    "pspnet_source",
    "region",
    "rule_of",
    "rules",
    "template",
    "template_source",
    "to_patches",
]
