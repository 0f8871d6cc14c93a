"""What an NTLBG model is: the base vision-language model and how its frames are chosen and enriched."""

# First of all, so that an older transformers is told by name.
from .requirements_ntlbg import VERSION


# isort: split
import functools
import math
from pathlib import Path

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .remote_code_ntlbg import CONFIG_AUTO_MAP, is_remote_code, register, save_remote_code
from .temporal_clip_ntlbg import clip_shape


# The adapters of modeling_ntlbg/adapters_ntlbg.py, by the base's model_type.
SUPPORTED_BASES = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")


# Fields of what a selector-only checkpoint leaves out.
PLACES = ("base_name_or_path", "scorer_name_or_path", "temporal_name_or_path")


def check_family(model_type: str | None, what: str) -> None:
    r"""
    Raises:
        ValueError: there is no adapter for bases of this type; `what` says whose type it is.
    """
    if model_type not in SUPPORTED_BASES:
        raise ValueError(
            f"{what} is of type {model_type!r}, for which there is no adapter; choose a base of type "
            f"{', '.join(SUPPORTED_BASES)}."
        )


@strict
class NTLBGConfig(PreTrainedConfig):
    r"""
    Configuration of [`NTLBGForConditionalGeneration`].

    A *group* is what the base encodes in time as one (`temporal_patch_size` frames, 2 for Qwen2-VL); T is the number
    of groups of a video, d the size of a descriptor (one vector per group).

    Args:
        base_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a `Qwen2VLConfig`):
            Configuration of the vision-language model that answers. Its `model_type` must be one of `SUPPORTED_BASES`.
        scorer_config (`PreTrainedConfig` or `dict`, *optional*):
            A dual encoder of transformers (CLIP, SigLIP, SigLIP 2, ...) for the first look: it sees all candidates
                small.
            Without one, the first look is the base's own vision tower.
        temporal_config (`PreTrainedConfig` or `dict`, *optional*):
            A video encoder of transformers (VideoMAE, V-JEPA 2, TimeSformer, ViViT) for a second stream: it sees the
            segment of each chosen group, and its tokens stand behind the group's own. Without one there is no second
            stream.
        temporal_grid (`tuple[int, int, int]`, *optional*, defaults to `(8, 4, 4)`):
            Steps in time, rows and columns that a segment's tokens are pooled to; none more than the encoder gives.
        temporal_trained (`bool`, *optional*, defaults to `False`):
            Whether the projector of the second stream has been trained. While it has not, segments are not seen and
            the model answers as without them; every selection says so.
        num_representatives (`int`, *optional*, defaults to 32):
            k, the number of groups kept per video; >= 1. A video with fewer groups keeps them all.
        max_visual_tokens (`int`, *optional*):
            Budget of visual tokens per video, instead of `num_representatives`: k is the largest number of groups that
            fits.
        candidate_fps (`float`, *optional*, defaults to 2.0):
            Candidate frames per second of video, on a grid uniform in time; > 0.
        max_candidates (`int`, *optional*, defaults to 768):
            Cap on the number of candidate frames; a longer video gets a coarser grid; >= 2.
        covariance_rank (`int`, *optional*, defaults to 32):
            r of Sigma_Q = D + U U^T; >= 1.
        relevance_share (`float`, *optional*, defaults to 0.5):
            Largest share of k that goes to evidence before the rest is covered; in [0, 1].
        novelty_share (`float`, *optional*, defaults to 0.125):
            Share of k that goes to what the coverage leaves worst represented, twice that without a question; in
            [0, 1].
        time_weight (`float`, *optional*, defaults to 1.0):
            Weight of distance in time against distance in (whitened) feature space in the coverage stratum of a
            question; >= 0. Without a question content alone decides.
        lbg_iterations (`int`, *optional*, defaults to 8):
            Linde-Buzo-Gray iterations of the coverage stratum; >= 1.
        selector_size (`int`, *optional*, defaults to 256):
            Width of the query encoder and of the frame keys; a multiple of 4.
        query_slots (`int`, *optional*, defaults to 4):
            Vectors a query is turned into; relevance is the best match over them, so that "A or B" can be asked; >= 1.
        selector_trained (`bool`, *optional*, defaults to `False`):
            Whether the relevance head has been trained. While it has not, its output is not used: relevance comes from
            the scorer, or, without one, no group is chosen for relevance and every selection says so.
        context_size (`int`, *optional*, defaults to 256):
            Width of the context c_i of a rich point; an even number.
        context_window (`int`, *optional*, defaults to 9):
            Groups around a representative that its context sees, itself included; odd.
        time_frequencies (`int`, *optional*, defaults to 16):
            Sine-cosine pairs that encode t_i; >= 1.
        span_head (`bool`, *optional*, defaults to `False`):
            A head that tells when what is asked for happens: start, end and confidence of moments. Its width is
            `selector_size`.
        vision_chunk_groups (`int`, *optional*, defaults to 64):
            Groups that go through the vision tower at once, so that its peak memory does not grow with the video; >=
            1.
        ntlbg_weight (`float`, *optional*, defaults to 0.0), align_weight (`float`, *optional*, defaults to 0.0),
        context_weight (`float`, *optional*, defaults to 0.0):
            l1, l2, l3 of L = L_task + l1 L_NTLBG + l2 L_align + l3 L_context when the model itself is asked for a loss
            (a trainer sets its own schedule); >= 0.
        likelihood_weight (`float`, *optional*, defaults to 0.1):
            Weight, inside L_NTLBG, of the frames' negative log-likelihood per dimension; without it the loss is least
            for an infinite Sigma; > 0.
        fade_share (`float`, *optional*, defaults to 0.5):
            Share of the training videos whose representatives are half faded, more or less, which is what lets the
            selector learn from the task loss; in [0, 1]. 1 suits a frozen base, 0 leaves a gradient without content.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new linear weights; > 0.
        base_name_or_path, scorer_name_or_path, temporal_name_or_path (`str`, *optional*):
            Of a selector-only checkpoint: where the weights of the base, the scorer and the temporal encoder are
            fetched from, a folder, a Hub name or `name@revision`. None: they are in the checkpoint.
        ntlbg_version (`str`, *optional*):
            Of the code that saved the checkpoint.

    Raises:
        ValueError: a value is outside its range, or the base is not supported.
    """

    model_type = "ntlbg"
    sub_configs_defaults = {
        "base_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2_vl"),
        "scorer_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip", optional=True),
        "temporal_config": SubConfigSpec(config_class=AutoConfig, model_type="videomae", optional=True),
    }
    keys_to_ignore_at_inference = [
        "past_key_values",
        "selections",
        "labels",
        "task_loss",
        "ntlbg_loss",
        "align_loss",
        "context_loss",
        "evidence_loss",
        "teacher_loss",
        "span_loss",
        "video_losses",
    ]

    base_config: dict | PreTrainedConfig | None = None
    scorer_config: dict | PreTrainedConfig | None = None
    temporal_config: dict | PreTrainedConfig | None = None
    temporal_grid: list[int] | tuple[int, ...] = (8, 4, 4)
    temporal_trained: bool = False
    num_representatives: int = 32
    max_visual_tokens: int | None = None
    candidate_fps: float | int = 2.0
    max_candidates: int = 768
    covariance_rank: int = 32
    relevance_share: float | int = 0.5
    novelty_share: float | int = 0.125
    time_weight: float | int = 1.0
    lbg_iterations: int = 8
    selector_size: int = 256
    query_slots: int = 4
    selector_trained: bool = False
    context_size: int = 256
    context_window: int = 9
    time_frequencies: int = 16
    span_head: bool = False
    vision_chunk_groups: int = 64
    ntlbg_weight: float | int = 0.0
    align_weight: float | int = 0.0
    context_weight: float | int = 0.0
    likelihood_weight: float | int = 0.1
    fade_share: float | int = 0.5
    initializer_range: float | int = 0.02
    base_name_or_path: str | None = None
    scorer_name_or_path: str | None = None
    temporal_name_or_path: str | None = None
    ntlbg_version: str | None = None
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        # Setting our own attention implementation resets those of the sub-configs; keep what the models were made
        # with.
        given = {
            name: config._attn_implementation
            for name in ("base_config", "scorer_config", "temporal_config")
            if isinstance(config := getattr(self, name), PreTrainedConfig)
        }
        super().__post_init__(**kwargs)
        if kwargs.get("attn_implementation") is None:
            for name, implementation in given.items():
                getattr(self, name)._attn_implementation = implementation
        self._check_ranges()
        # transformers ties the weights of the outermost config; the base decides.
        self.tie_word_embeddings = bool(getattr(self.base_config, "tie_word_embeddings", False))

    def _check_ranges(self):
        check_family(self.base_config.model_type, "`base_config`")
        at_least = {
            "num_representatives": 1,
            "max_visual_tokens": 1,
            "max_candidates": 2,
            "covariance_rank": 1,
            "time_weight": 0,
            "lbg_iterations": 1,
            "query_slots": 1,
            "time_frequencies": 1,
            "vision_chunk_groups": 1,
            "ntlbg_weight": 0,
            "align_weight": 0,
            "context_weight": 0,
        }
        for name, low in at_least.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= low):
                raise ValueError(f"`{name}` should be at least {low}, but it is {value!r}.")
        for name in ("candidate_fps", "likelihood_weight", "initializer_range"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` should be a positive number, but it is {value!r}.")
        for name in ("relevance_share", "novelty_share", "fade_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` should be between 0 and 1, but it is {value!r}.")
        if self.selector_size < 4 or self.selector_size % 4:
            raise ValueError(f"`selector_size` should be a positive multiple of 4, but it is {self.selector_size!r}.")
        if self.context_size < 2 or self.context_size % 2:
            raise ValueError(f"`context_size` should be a positive even number, but it is {self.context_size!r}.")
        if self.context_window < 1 or self.context_window % 2 == 0:
            raise ValueError(f"`context_window` should be a positive odd number, but it is {self.context_window!r}.")
        if len(self.temporal_grid) != 3 or min(self.temporal_grid) < 1:
            raise ValueError(f"`temporal_grid` should be three positive numbers, but it is {self.temporal_grid!r}.")
        if self.temporal_config is not None:
            given = clip_shape(self.temporal_config).grid
            if any(asked > own for asked, own in zip(self.temporal_grid, given, strict=True)):
                raise ValueError(
                    f"`temporal_grid` is {tuple(self.temporal_grid)}, but this video encoder gives only {given} "
                    "steps, rows and columns; pool to no more."
                )

    def note_fetched(self, places: dict[str, str]) -> None:
        """Note where what a checkpoint leaves out is fetched from, by field; of all else that it has it."""
        for field in PLACES:
            setattr(self, field, places.get(field))

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """As transformers does, with the version of this code, and the code itself flat beside it."""
        self.ntlbg_version = VERSION
        if not is_remote_code(type(self)):
            if getattr(self, "auto_map", None) is None:
                self.auto_map = dict(CONFIG_AUTO_MAP)
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            save_remote_code(type(self), save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def get_text_config(self, *args, **kwargs):
        return self.base_config.get_text_config(*args, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the base's language model; DeepSpeed reads it to size its buckets."""
        return self.get_text_config().hidden_size

    @property
    def vocab_size(self) -> int:
        return self.get_text_config().vocab_size

    @property
    def image_token_id(self) -> int:
        return self.base_config.image_token_id

    @property
    def video_token_id(self) -> int | None:
        """`None` where a base has none of its own, because it reads frames as images (InternVL)."""
        return getattr(self.base_config, "video_token_id", None)


def _raise_value_errors(init):
    """What the strict dataclass says of a wrong type, as one sentence of the error that callers expect."""

    @functools.wraps(init)
    def checked(self, *args, **kwargs):
        try:
            init(self, *args, **kwargs)
        except StrictDataclassFieldValidationError as error:
            raise ValueError(" ".join(str(error).split())) from error

    return checked


NTLBGConfig.__init__ = _raise_value_errors(NTLBGConfig.__init__)


register(NTLBGConfig, AutoConfig, key="ntlbg")


__all__ = ["SUPPORTED_BASES", "NTLBGConfig", "check_family"]


# All that this file needs, for transformers 4, which reads no further than here; never run.
if False:
    from .remote_code_ntlbg import __name__
    from .requirements_ntlbg import __name__
    from .temporal_clip_ntlbg import __name__
