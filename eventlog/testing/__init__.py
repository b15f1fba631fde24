"""What shows that a part somebody else wrote keeps the contract it stands under.

`BlobStoreContract` is a suite of tests that every blob store must pass. It needs pytest only where
it is used::

    class TestMyStore(BlobStoreContract):
        @pytest.fixture
        def store(self):
            with my_store.open("...") as store:
                yield store

        def opener(self, store):
            return functools.partial(my_store.open, "...")

With ``pytest.register_assert_rewrite("eventlog.testing")`` in a ``conftest.py``, failures show the
values compared.
"""

from eventlog.testing.blob_store import BlobStoreContract
from eventlog.testing.races import Opener

__all__ = ["BlobStoreContract", "Opener"]
