"""Makes the golden catalog segment of version 2; run once, never again.

    python -m tests.golden.make_catalog_v2 tests/golden/catalog-v2.cat

tests/storage/test_ref_map.py reads what is written here, with every later version.
"""

import sys

import numpy as np

from tests.storage.test_catalog import make_catalog
from tests.storage.test_ref_map import GOLDEN_NEXT_REF, GOLDEN_SERIES
from tsengine.storage import catalog_payload
from tsengine.storage.catalog_file import write_catalog_segment
from tsengine.storage.filesystem import LocalFileSystem


def main(path: str) -> None:
    catalog = make_catalog()
    others = ({"__name__": "gone", "i": str(i)} for i in range(GOLDEN_NEXT_REF))
    catalog.series_refs([GOLDEN_SERIES.get(i, labels) for i, labels in enumerate(others)])
    catalog.publish()
    view = catalog.view()
    payload = catalog_payload.encode_sparse(
        view.state, view.refs, np.array(sorted(GOLDEN_SERIES), np.uint32), GOLDEN_NEXT_REF
    )
    write_catalog_segment(LocalFileSystem(), path, payload)


if __name__ == "__main__":
    main(sys.argv[1])
