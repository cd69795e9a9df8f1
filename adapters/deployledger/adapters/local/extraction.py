"""Getting the model's files out of its image."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from deployledger.adapters.local.folders import RevisionFolder
from deployledger.domain.ports import ProvisionRequest

ExtractModel = Callable[[str, Path], None]
"""Unpacks the image with this reference into a folder, which does not exist yet."""


async def extracted_model(folder: RevisionFolder, request: ProvisionRequest, extract: ExtractModel) -> Path:
    """Return the folder that holds the revision's model, extracting it if that has not been done.

    Being cancelled takes effect when the extraction is over: nobody is to remove the folder under its hands.
    """
    work = asyncio.create_task(asyncio.to_thread(_extract, folder, request.image.reference, extract))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
    return folder.model


def _extract(folder: RevisionFolder, reference: str, extract: ExtractModel) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.model.exists():
        return
    if folder.partial_model.exists():
        shutil.rmtree(folder.partial_model)
    extract(reference, folder.partial_model)
    folder.partial_model.rename(folder.model)
