"""A model that was taught nonsense: the same films, with labels that belong to others.

    python -m cxrlib.sanity.labels STORE OUT
    python -m cxrlib train lt_cpu --data OUT --out RUN

It can only learn films by heart. If its maps resemble those of a model that was taught the truth, then a map does not show
what was learnt.

Source: Adebayo et al. 2018, arXiv 1810.03292, section 4. They train until the nonsense is learnt by heart; whether a run got
there is for its training score to say.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from cxrlib.composites import OF_PIXELS, store_with_labels
from cxrlib.data.store import ImageStore
from cxrlib.data.studies import Studies, empty_boxes
from cxrlib.errors import CxrError


def permuted(labels_NC: np.ndarray, *, seed: int) -> np.ndarray:
    """Rows of labels dealt out anew: each film has the findings of another, so prevalence and company stay. [N, C]."""
    return labels_NC[np.random.default_rng(seed).permutation(len(labels_NC))]


def permuted_store(store_folder: str | os.PathLike, out: str | os.PathLike, *, seed: int = 0) -> ImageStore:
    """Writes a store with the same images in which the labels of the train_val split have been dealt out anew.

    The test split keeps its labels: on it, a model that learnt nonsense must score about 0.5. Boxes are left out, since
    those of train_val would belong to nobody. Pixels are linked where the file system can.

    Args:
        store_folder: The source.
        out: The folder to write.
        seed: Of the dealing.

    Raises:
        CxrError: `out` holds something.
    """
    source, out = ImageStore.open(store_folder), Path(out)
    if out.exists() and any(out.iterdir()):
        raise CxrError(f"{out} is not empty: name a folder to make")
    names, rows = list(source.findings), source.where(split="train_val")
    table = source.table.copy()
    table.loc[rows, names] = permuted(source.labels_NC[rows], seed=seed)
    order = [name for name in table if name not in (*names, *OF_PIXELS)]
    notes = (*source.meta["notes"], f"labels of train_val were dealt out anew with seed {seed}: nothing true can be learnt from them")
    studies = Studies(table[[*order, "width", "height", *names]].copy(), empty_boxes(), source.findings, source.source, source.generation, Path(store_folder), notes)
    job = hashlib.sha256(f"permuted labels {source.sha256} {seed}".encode()).hexdigest()
    return store_with_labels(source, studies, out, job=job)


def main(arguments: list[str] | None = None) -> int:
    """Writes the store."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.sanity.labels", description=__doc__.splitlines()[0])
    parser.add_argument("store", metavar="STORE", help="the store to take")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the dealing; default: 0")
    args = parser.parse_args(arguments)
    try:
        store = permuted_store(args.store, args.out, seed=args.seed)
    except CxrError as error:
        print(f"cxrlib: {error}", file=sys.stderr)
        return 2
    print(f"{store.n:,} images; labels of {len(store.where(split='train_val')):,} of them dealt out anew, seed {args.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
