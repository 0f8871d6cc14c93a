"""The model. On import the auto classes learn that this code is NTLBG's, not a checkpoint copy of it."""

from transformers import AutoModel, AutoModelForImageTextToText

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration


AutoModel.register(NTLBGConfig, NTLBGForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(NTLBGConfig, NTLBGForConditionalGeneration, exist_ok=True)
