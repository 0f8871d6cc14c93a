"""The adapter of each family of base models, by its `model_type`."""

from .base_adapter_ntlbg import BaseAdapter, VideoFeatures
from .frame_adapters_ntlbg import InternVLAdapter, LlavaOnevisionAdapter
from .qwen_adapters_ntlbg import Qwen3VLAdapter, Qwen25VLAdapter, QwenVLAdapter


ADAPTERS = {
    "internvl": InternVLAdapter,
    "llava_onevision": LlavaOnevisionAdapter,
    "qwen2_5_vl": Qwen25VLAdapter,
    "qwen2_vl": QwenVLAdapter,
    "qwen3_vl": Qwen3VLAdapter,
}


def adapter_for(vlm) -> BaseAdapter:
    """The adapter of a base model.

    Raises:
        ValueError: there is none for this family.
    """
    family = vlm.config.model_type
    if family not in ADAPTERS:
        raise ValueError(
            f"There is no adapter for a base of type {family!r}; choose one of type {', '.join(sorted(ADAPTERS))}."
        )
    return ADAPTERS[family](vlm)


__all__ = ["ADAPTERS", "VideoFeatures", "adapter_for"]
