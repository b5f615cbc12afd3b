"""How many entries to read at once. Redis bounds a read by their number only, and gives them whole. Pure."""

from collections.abc import Collection

PAGE_BYTES = 4 * 1024 * 1024  # what a page should take
FIRST_PAGE = 4


class PageSize:
    """`count` is how many entries the next page may have: few at first, at most `most`, by the bytes of those before.

    A page that is not full says that there was no more, so the one after it is small again: nobody knows what comes.
    """

    def __init__(self, most: int, page_bytes: int = PAGE_BYTES) -> None:
        self.count = min(FIRST_PAGE, most)
        self._most = most
        self._page_bytes = page_bytes

    def note(self, sizes: Collection[int]) -> None:
        """A page was read, whose entries had so many bytes each."""
        if sizes:
            by_bytes = int(self._page_bytes * len(sizes) / max(1, sum(sizes)))
            self.count = max(1, min(self._most, max(FIRST_PAGE, 2 * len(sizes)), by_bytes))


def size_of(fields: Collection[bytes | str]) -> int:
    """The bytes of an entry: its names and values one after the other. Characters, where the client decodes."""
    return sum(map(len, fields))
