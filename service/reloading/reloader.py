"""When to look at the models folder: every few seconds, and when somebody asks."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from service.reloading.folder import ModelsFolder

logger = logging.getLogger(__name__)

_TIDY_EVERY_SECONDS = 5.0


class Reloader:
    """One thread looks, verifies and opens; the event loop only waits for it."""

    def __init__(
        self, folder: ModelsFolder, every_seconds: float | None, tidy: Callable[[], None]
    ) -> None:
        """`every_seconds` None: only when asked.  `tidy` is called at every turn."""
        self.folder = folder
        self._every = every_seconds
        self._tidy = tidy
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on the folder is looked at.  Event loop only."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Waits for a bundle that is being opened."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def look(self) -> None:
        """Look now: every folder counts as complete, what was refused is tried again."""
        await asyncio.wrap_future(self._thread.submit(self._turn, look=True, at_once=True))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every or _TIDY_EVERY_SECONDS)
            looking = self._every is not None
            await asyncio.wrap_future(self._thread.submit(self._turn, look=looking, at_once=False))

    def _turn(self, *, look: bool, at_once: bool) -> None:
        """Nothing may end the watch."""
        try:
            if look:
                self.folder.look(at_once=at_once)
            self._tidy()
        except Exception:
            logger.exception("the models folder could not be looked at")
