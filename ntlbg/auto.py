"""Makes transformers' auto classes know NTLBG, so that our checkpoints load with the installed code.

Without this, a checkpoint's `auto_map` leads the auto classes to the code beside the weights, which is meant for machines
where this package is not installed, and which asks for `trust_remote_code`.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoVideoProcessor

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_processing_ntlbg import NTLBGVideoProcessor


def register() -> None:
    """Tell the auto classes; doing it twice does no harm."""
    AutoConfig.register("ntlbg", NTLBGConfig, exist_ok=True)
    AutoModelForImageTextToText.register(NTLBGConfig, NTLBGForConditionalGeneration, exist_ok=True)
    AutoVideoProcessor.register(NTLBGConfig, NTLBGVideoProcessor, exist_ok=True)
    AutoProcessor.register(NTLBGConfig, NTLBGProcessor, exist_ok=True)
