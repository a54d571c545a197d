"""The prior store: each image's regions, computed once, one bit a pixel, row by row beside an image store.

* regions.bits: [N, K, S, S/8] bytes, K different regions (findings share some); a single image's worth for the template.
* priors.json: format, source, size, findings, which region each has, the image store's hash, checksums, what was noticed.
  Written last, so it marks a finished store.

Letters of shapes: N images, K different regions, C findings, S side of a region in pixels.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cxrlib.blocks import check_blocks, write_blocks
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json
from cxrlib.priors.regions import distinct, region
from cxrlib.priors.sources import Source
from cxrlib.priors.template import template

FORMAT_VERSION = 1
BLOCK = 64  # images


class PriorStore:
    """Finished priors, opened for reading.

    Attributes:
        findings: Names along C.
        size: S.
        source: "pspnet", "phantom" or "template".
        replaced: Regions that the source left empty, and the template's stand for.
        meta: All of priors.json.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta
        self.findings, self.size, self.source = tuple(meta["findings"]), int(meta["size"]), meta["source"]
        self.replaced = sum(block["replaced"] for block in meta["blocks"])
        shape = (meta["rows"], meta["regions"], self.size, self.size // 8)
        self._bits = np.memmap(folder / "regions.bits", np.uint8, "r", shape=shape)
        self._region_C = np.array(meta["region_of"])

    @classmethod
    def open(cls, folder: str | os.PathLike, store: ImageStore | None = None) -> "PriorStore":
        """Opens priors, with every checksum compared.

        Args:
            folder: What `make_priors` wrote.
            store: The images they should belong to. None: any.

        Raises:
            CxrError: The folder holds no finished priors, they are damaged, or they were made for other images.
        """
        folder = Path(folder)
        if not (folder / "priors.json").is_file():
            raise CxrError(f"{folder} holds no finished priors: make them with python -m cxrlib priors make STORE {folder}")
        meta = read_json(folder / "priors.json")
        if meta.get("format") != FORMAT_VERSION:
            raise CxrError(f"the priors {folder} have the format {meta.get('format')}, this cxrlib reads {FORMAT_VERSION}: make them again")
        if meta.get("sha256") != _name_of(meta):
            raise CxrError(f"the priors {folder} are damaged (priors.json was changed): remove the folder and make them again")
        if store is not None and meta["store"] != store.sha256:
            raise CxrError(f"the priors {folder} were made for another image store: make them again for {store.folder}")
        if (wrong := check_blocks(folder / "regions.bits", meta["blocks"])) is not None:
            raise CxrError(f"the priors {folder} are damaged ({wrong}): remove the folder and make them again")
        return cls(folder, meta)

    def regions(self, rows: Sequence[int] | np.ndarray, findings: Sequence[str] | None = None) -> Tensor:
        """Regions of some images: uint8 0 and 1, [B, C, S, S].

        Args:
            rows: Row numbers of the image store.
            findings: Which, in which order. None: all of them.

        Raises:
            CxrError: The priors lack one of the findings.
        """
        columns = self._region_C if findings is None else self._region_C[[self._column(name) for name in findings]]
        rows = np.zeros(len(rows), int) if self.meta["rows"] == 1 else np.asarray(rows)
        regions_BKSS = np.unpackbits(self._bits[rows], axis=-1)
        return torch.from_numpy(regions_BKSS[:, columns])

    def _column(self, finding: str) -> int:
        if finding not in self.findings:
            raise CxrError(f"the priors {self.folder} have no region for {finding}: make them again from a store with that finding")
        return self.findings.index(finding)


def make_priors(
    store: ImageStore,
    out: str | os.PathLike,
    *,
    source: str,
    structures_of: Source,
    findings: Sequence[str] | None = None,
    size: int = 64,
    details: dict[str, Any] | None = None,
    progress: bool = False,
) -> PriorStore:
    """Computes the regions of every image of a store, or finishes what a killed call began.

    Where a source finds none of a finding's structures in an image, the template's region takes their place, and the image is
    counted: an empty region would forbid the finding.

    Args:
        store: The images.
        out: The folder to write. Finished priors of the same store, source and rules are left as they are.
        source: What to call the source.
        structures_of: From `cxrlib.priors.sources`.
        findings: Only these; None: all of the store's.
        size: S, a multiple of 8.
        details: Noted in priors.json, for example the checksum of a network's weights.
        progress: Show a bar.

    Raises:
        CxrError: The size is impossible, the folder holds something else, or a finding has no rule.
    """
    out = Path(out)
    if size < 8 or size % 8:
        raise CxrError(f"the priors' size {size} is not a multiple of 8, from 8 up: eight pixels share a byte")
    findings = tuple(store.findings if findings is None else findings)
    if unknown := [name for name in findings if name not in store.findings]:
        raise CxrError(f"the store has no finding {unknown[0]!r}: it has {', '.join(store.findings)}")
    different, region_of = distinct(findings)
    meta = {
        "format": FORMAT_VERSION,
        "source": source,
        "size": size,
        "n": store.n,
        "rows": 1 if source == "template" else store.n,
        "findings": list(findings),
        "regions": len(different),
        "region_of": list(region_of),
        "rules": [rule._asdict() | {"structures": list(rule.structures)} for rule in different],
        "store": store.sha256,
        "details": details or {},
    }
    if (out / "priors.json").is_file():
        made = PriorStore.open(out, store)
        if any(made.meta[name] != value for name, value in meta.items()):
            raise CxrError(f"{out} holds priors of another source, size or rules: remove it, or name another folder")
        return made
    fallback = [region(template(size), rule) for rule in different]

    def block(number: int) -> tuple[bytes, dict]:
        rows = range(number * BLOCK, min((number + 1) * BLOCK, meta["rows"]))
        regions_BKSS = np.stack([[region(structures, rule) for rule in different] for structures in structures_of(rows)])
        empty = np.argwhere(~regions_BKSS.any(axis=(2, 3)))
        for row, which in empty:
            regions_BKSS[row, which] = fallback[which]
        return np.packbits(regions_BKSS, axis=-1).tobytes(), {"replaced": len(empty)}

    count = -(-meta["rows"] // BLOCK)
    with tqdm(total=count, unit="block", desc="priors", disable=not progress) as bar:
        blocks = write_blocks(out / "regions.bits", job=_name_of(meta), count=count, make=block, done=lambda number: bar.update())
    meta |= {"blocks": blocks}
    meta["sha256"] = _name_of(meta)
    write_json(out / "priors.json", meta)
    return PriorStore.open(out, store)


def _name_of(meta: dict[str, Any]) -> str:
    """The hash that names the priors: of all that priors.json says but the hash itself."""
    rest = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
