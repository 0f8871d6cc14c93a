"""NTLBG-LLM: pick the k frames that represent a video for the question asked, and answer from those alone."""

from importlib import import_module


# Loaded on first use, so that `ntlbg --help` does not wait for torch.
_PUBLIC = {
    "FrameSelection": "ntlbg.selection.api",
    "FrameSelector": "ntlbg.selection.api",
    "NTLBGConfig": "ntlbg.configuration.configuration_ntlbg",
    "NTLBGForConditionalGeneration": "ntlbg.modeling_ntlbg.modeling_ntlbg",
    "NTLBGProcessor": "ntlbg.processors.processing_ntlbg",
    "NTLBGTrainer": "ntlbg.training.trainer",
    "NTLBGTrainingArguments": "ntlbg.training.arguments",
    "NTLBGVideoProcessor": "ntlbg.processors.video_processing_ntlbg",
    "Selection": "ntlbg.modeling_ntlbg.selection_ntlbg",
    "StreamingGaussian": "ntlbg.modeling_ntlbg.streaming_ntlbg",
    "Subtitles": "ntlbg.selection.subtitles",
    "VideoAnswerer": "ntlbg.selection.video_answering",
    "select_frames": "ntlbg.selection.api",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ntlbg' has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
