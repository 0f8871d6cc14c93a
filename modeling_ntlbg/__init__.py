"""The model. Importing it tells the auto classes that this code, not a checkpoint's copy, is NTLBG's."""

from transformers import AutoModel, AutoModelForImageTextToText

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration


AutoModel.register(NTLBGConfig, NTLBGForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(NTLBGConfig, NTLBGForConditionalGeneration, exist_ok=True)
