"""A picture of a report.html for the README: python -m scripts.screenshot_report RUN OUT.png [HEIGHT]"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from harness import store
from tests import chromium

WIDTH = 1100


async def shoot(report: Path, target: Path, height: int) -> None:
    """The first `height` pixels of a page, light colours."""
    async with chromium.browsing() as page:
        await page.open(report, WIDTH, "light")
        await page.screenshot(target, height)


if __name__ == "__main__":
    run = store.find_run(sys.argv[1])
    tall = int(sys.argv[3]) if len(sys.argv) > 3 else 1400
    asyncio.run(shoot(run / "report.html", Path(sys.argv[2]), tall))
