"""From a file to model inputs. On import the auto classes learn that this code is NTLBG's, not a checkpoint copy."""

from transformers import AutoProcessor, AutoVideoProcessor

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_processing_ntlbg import NTLBGVideoProcessor


AutoVideoProcessor.register(NTLBGConfig, NTLBGVideoProcessor, exist_ok=True)
AutoProcessor.register(NTLBGConfig, NTLBGProcessor, exist_ok=True)
