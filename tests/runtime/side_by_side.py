"""Work in several threads at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable


def side_by_side(work: Callable[[int], None], threads: int = 4) -> None:
    """Run `work` in threads of their own, each with its number, and wait for all of them."""
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
