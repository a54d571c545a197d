"""From a folder of radiographs to arrays: readers, the doctor, the store.

    studies = read_nih(folder)              one table of studies, with boxes
    prepare(studies, "store", size=224)     every image decoded once, into a uint8 store
    store = ImageStore.open("store")        read at memory speed
"""

from cxrlib.data.chexpert import read_chexpert
from cxrlib.data.folders import read_folder
from cxrlib.data.nih import read_nih
from cxrlib.data.prepare import prepare
from cxrlib.data.splits import assert_patient_disjoint, split_by_patient
from cxrlib.data.store import ImageStore
from cxrlib.data.studies import Studies

__all__ = [
    "ImageStore",
    "Studies",
    "assert_patient_disjoint",
    "prepare",
    "read_chexpert",
    "read_folder",
    "read_nih",
    "split_by_patient",
]
