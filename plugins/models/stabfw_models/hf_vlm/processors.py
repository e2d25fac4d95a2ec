"""Load a checkpoint's processor: PIL image back end, left padding, no torchvision needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from stabfw.errors import DataError
from transformers.utils import is_torchvision_available

from stabfw_models.hf_vlm.files import FROM_DISK, Checkpoint, processor_class


def load_processor(checkpoint: Checkpoint, options: Mapping[str, Any]) -> Any:
    """Load the processor of a checkpoint.

    Args:
        checkpoint: Where it lies.
        options: Further arguments of its image processor.

    Raises:
        DataError: If it has no image-text processor or no chat template.
    """
    try:
        processor = _load(checkpoint)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{checkpoint.name}: cannot load the processor: {error}") from error
    # AutoProcessor hands back a bare tokenizer where it does not know the processor's class.
    if not hasattr(processor, "image_processor"):
        raise DataError(
            f"{checkpoint.name}: {type(processor).__name__} is no image-text processor; "
            "is `processor_class` in processor_config.json right?"
        )
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise DataError(
            f"{checkpoint.name}: no chat template (chat_template.jinja), so there is no telling "
            "how this model is to be asked"
        )
    # PIL and torchvision resize differently, enough to change answers.
    processor.image_processor = transformers.AutoImageProcessor.from_pretrained(
        checkpoint.folder, backend="pil", **FROM_DISK, **options
    )
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _load(checkpoint: Checkpoint) -> Any:
    name = processor_class(checkpoint)
    stated = getattr(transformers, name, None) if name else None
    if stated is None or is_torchvision_available() or not _takes_videos(stated):
        return transformers.AutoProcessor.from_pretrained(checkpoint.folder, **FROM_DISK)
    return _without_videos(stated).from_pretrained(checkpoint.folder, **FROM_DISK)


def _takes_videos(processor: Any) -> bool:
    return "video_processor" in processor.get_attributes()


def _without_videos(processor: Any) -> Any:
    """The processor for pictures only: the one of videos cannot be made without torchvision."""

    def get_attributes(cls: Any) -> list[str]:
        return [name for name in processor.get_attributes() if name != "video_processor"]

    # It keeps its name, by which it is described and recorded.
    return type(processor.__name__, (processor,), {"get_attributes": classmethod(get_attributes)})
