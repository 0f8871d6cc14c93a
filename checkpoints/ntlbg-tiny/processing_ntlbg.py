"""The processor: what the base VLM's own processor gives, unchanged, plus what the selector needs.

Shapes: B rows, Lq query tokens, N candidate frames, T groups, k chosen groups.

The base family's processor is composed, not imitated: its class builds the prompt and the tensors; ours fetches the
frames first and adds the bare query and the times. In the second look the base is handed the chosen frames with the
grid of all groups, so that it writes the full prompt itself.
"""

# First of all, so that an older transformers is told by name.
from .requirements_ntlbg import VERSION  # noqa: F401


# isort: split
from pathlib import Path

import transformers
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import BaseVideoProcessor

from .configuration_ntlbg import NTLBGConfig
from .remote_code_ntlbg import PROCESSOR_AUTO_MAP, is_remote_code, register, save_remote_code
from .temporal_clip_ntlbg import clip_shape
from .first_look_ntlbg import base_first_look, scorer_first_look, scorer_query
from .frame_bases_ntlbg import FRAME_PROCESSORS
from .query_text_ntlbg import is_conversation, query_of_messages, query_of_prompt
from .temporal_frames_ntlbg import temporal_candidates, temporal_segments
from .video_processing_ntlbg import SAMPLING_KWARGS, NTLBGVideoProcessor, TimedVideoMetadata
from .video_source_ntlbg import flatten_videos


# The processors whose prompts and tensors the adapters of the model know.
BASE_PROCESSORS = (*FRAME_PROCESSORS, "Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor")

SCORER_FOLDER = "scorer"
TEMPORAL_FOLDER = "temporal"


class NTLBGProcessor(ProcessorMixin):
    r"""
    Turns messages or prompts with images and videos into the inputs of [`NTLBGForConditionalGeneration`].

    Args:
        image_processor: the base's image processor.
        tokenizer: the base's tokenizer.
        video_processor ([`NTLBGVideoProcessor`]): around the base's video processor.
        chat_template (`str`, *optional*): the base's chat template.
        base_processor_class (`str`, *optional*, defaults to `"Qwen2VLProcessor"`): one of `BASE_PROCESSORS`.
        base_settings (`dict`, *optional*): further arguments of that class.
        first_look_size (`int`, *optional*, defaults to 224): longer side in pixels of the frames of a first look
            without a scorer; a base that sees frames of one size only gets that size.
        scorer_folder (`str`, *optional*): where a saved processor keeps its scorer's; set by `save_pretrained`.
        scorer_processor (`ProcessorMixin`, *optional*): processor of a dual encoder (CLIP, SigLIP, ...) for the first
            look.
        temporal_folder (`str`, *optional*): as `scorer_folder`, of the second stream's processor.
        temporal_processor (`BaseVideoProcessor`, *optional*): of a video encoder (VideoMAE, V-JEPA 2, ...), for the
            second stream.
        temporal_frames (`int`, *optional*): frames of one of its clips; needed with `temporal_processor`.

    Use [`NTLBGProcessor.from_base`] to make one from the base's processor.
    """

    return_mm_token_type_ids = True

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        chat_template=None,
        base_processor_class: str = "Qwen2VLProcessor",
        base_settings: dict | None = None,
        first_look_size: int = 224,
        scorer_folder: str | None = None,
        scorer_processor: ProcessorMixin | None = None,
        temporal_folder: str | None = None,
        temporal_processor: BaseVideoProcessor | None = None,
        temporal_frames: int | None = None,
    ):
        if base_processor_class not in BASE_PROCESSORS:
            raise ValueError(
                f"`base_processor_class` must be one of {', '.join(BASE_PROCESSORS)}, but got "
                f"{base_processor_class!r}."
            )
        if first_look_size < 1:
            raise ValueError(f"`first_look_size` must be a positive number of pixels, but got {first_look_size}.")
        self.base_processor_class = base_processor_class
        self.base_settings = dict(base_settings or {})
        self.first_look_size = first_look_size
        self.scorer_folder = scorer_folder
        self.scorer_processor = scorer_processor
        if temporal_processor is not None and (temporal_frames is None or temporal_frames < 1):
            raise ValueError(
                f"`temporal_frames` must be the number of frames of the video encoder's clips, but got "
                f"{temporal_frames!r}; pass `clip_shape(encoder.config).frames`."
            )
        self.temporal_folder = temporal_folder
        self.temporal_processor = temporal_processor
        self.temporal_frames = temporal_frames
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        base = self.base_processor
        self.image_token, self.image_token_id = base.image_token, base.image_token_id
        self.video_token, self.video_token_id = base.video_token, base.video_token_id

    @classmethod
    def from_base(
        cls,
        base,
        *,
        candidate_fps: float = 2.0,
        max_candidates: int = 768,
        max_side: int | None = 1280,
        first_look_size: int = 224,
        scorer_processor=None,
        temporal_processor=None,
        temporal_frames: int | None = None,
        **kwargs,
    ) -> "NTLBGProcessor":
        """
        An NTLBG processor around a base VLM's processor.

        Args:
            base (`ProcessorMixin` or `str`): the processor, or a folder or Hub name to load it from.
            candidate_fps, max_candidates, max_side: see [`NTLBGVideosKwargs`].
            first_look_size, scorer_processor: see the class; the scorer's processor may also be a folder or Hub name.
            temporal_processor, temporal_frames: see the class; the video encoder's processor may also be a folder or
                Hub name, from which `temporal_frames` is then read.
            kwargs: for `AutoProcessor.from_pretrained` where `base` is a name.

        Raises:
            ValueError: the processor is of a family that is not known.
        """
        if isinstance(base, str):
            base = transformers.AutoProcessor.from_pretrained(base, **kwargs)
        elif kwargs:
            raise ValueError(f"{sorted(kwargs)} only apply where `base` is a name, but got {type(base).__name__}.")
        if isinstance(scorer_processor, str):
            scorer_processor = transformers.AutoProcessor.from_pretrained(scorer_processor)
        if isinstance(temporal_processor, str):
            config = transformers.AutoConfig.from_pretrained(temporal_processor)
            temporal_frames = clip_shape(config).frames if temporal_frames is None else temporal_frames
            temporal_processor = transformers.AutoVideoProcessor.from_pretrained(temporal_processor)
        if type(base).__name__ not in BASE_PROCESSORS:
            raise ValueError(f"`base` must be one of {', '.join(BASE_PROCESSORS)}, but got {type(base).__name__}.")
        video_processor = NTLBGVideoProcessor(
            base.video_processor, candidate_fps=candidate_fps, max_candidates=max_candidates
        )
        frames_class, settings = FRAME_PROCESSORS.get(type(base).__name__), {}
        if frames_class is not None:
            settings = {name: getattr(base, name) for name in frames_class.settings}
            video_processor.frame_grid = frames_class.frame_grid.fget(base)
        # None (no scaling while decoding) is a value here, which the constructor would take for "not given"
        video_processor.max_side = max_side
        return cls(
            base.image_processor,
            base.tokenizer,
            video_processor,
            chat_template=base.chat_template,
            base_processor_class=type(base).__name__,
            base_settings=settings,
            first_look_size=first_look_size,
            scorer_processor=scorer_processor,
            temporal_processor=temporal_processor,
            temporal_frames=temporal_frames,
        )

    @property
    def base_processor(self) -> ProcessorMixin:
        """The base family's processor, built from this one's parts."""
        name = self.base_processor_class
        return (FRAME_PROCESSORS.get(name) or getattr(transformers, name))(
            image_processor=self.image_processor,
            tokenizer=self.tokenizer,
            video_processor=self.video_processor,
            chat_template=self.chat_template,
            **self.base_settings,
        )

    @property
    def model_input_names(self) -> list[str]:
        """Every tensor this processor can emit for the model."""
        own = ["query_input_ids", "query_attention_mask"]
        stream = [] if self.temporal_processor is None else ["temporal_pixel_values"]
        return [*self.base_processor.model_input_names, *own, *stream]

    # -- calls ---------------------------------------------------------------------------------------------------

    def __call__(
        self, text=None, images=None, videos=None, query=None, selection=None, temporal: bool = True, **kwargs
    ) -> BatchFeature:
        r"""
        Everything the base's processor gives for these inputs, unchanged, and the selector's inputs.

        Args:
            text (`str`, `list[str]`, or messages): prompts, one per row; or one conversation or a list of them, which
                goes through [`apply_chat_template`] (with `add_generation_prompt=True` and tensors unless told
                otherwise).
            images: as the base takes them.
            videos: one video or (nested) lists, in the order of the placeholders; see [`decode_candidates`] for what a
                video may be.
            query (`str` or `list[str | None]`, *optional*): the bare question of each row. Where it is not given, the
                text of the last user turn is taken.
            selection (*optional*): second look: a `Selection`, or one per video. Only the pictures of its groups are
                decoded, at full size.
            temporal (`bool`, *optional*, defaults to `True`): with `temporal_processor`, whether to prepare what the
                second stream sees.
            kwargs: as the base takes them; sampling as [`NTLBGVideoProcessor.fetch`] takes it.

        Returns:
            `BatchFeature` with the base's keys and, when there is a video,

            - **query_input_ids**, **query_attention_mask** (`torch.LongTensor` of shape `(B, Lq)`), padded right.
            - **group_timestamps** (`torch.FloatTensor` of shape `(sum of T,)`): seconds, in the order of the videos.
            - with `selection`: **kept_group_indices** `(sum of k,)` and **kept_group_counts** `(videos,)`;
              `pixel_values_videos` then holds the k chosen groups, while prompt and `video_grid_thw` tell of all T.
            - with `temporal_processor`: **temporal_pixel_values** `(frames, channels, height, width)`: all candidates,
              or, with `selection`, the clips of the chosen groups' segments.
            - with `return_metadata=True`: **video_metadata**, see [`TimedVideoMetadata`].

        Raises:
            VideoError: a video cannot be used. ValueError: inputs do not fit together.
        """
        if is_conversation(text) or (isinstance(text, list | tuple) and len(text) and is_conversation(text[0])):
            return self._call_with_messages(text, images, videos, query, selection, temporal=temporal, **kwargs)
        sources = [] if videos is None else flatten_videos(videos)
        if not sources:
            if selection is not None:
                raise ValueError("A selection needs the video it was made for, but no video was passed.")
            return self.base_processor(images=images, text=text, **kwargs)

        kwargs, sampling, video_metadata = _without_fetching_kwargs(kwargs)
        temporal = temporal and self.temporal_processor is not None
        frames = None
        if selection is None:
            fetched = self.video_processor.fetch(sources, video_metadata, **sampling)
            clips, metadata = [v.frames for v in fetched], [TimedVideoMetadata.of(v) for v in fetched]
            if temporal:
                frames = temporal_candidates(self, fetched)
        else:
            selections = list(selection) if isinstance(selection, list | tuple) else [selection]
            looks = self.video_processor.fetch_selected(sources, selections, video_metadata, **sampling)
            clips, metadata = [frames.frames for frames, _ in looks], [m for _, m in looks]
            if temporal:
                frames = temporal_segments(self, sources, selections, video_metadata, sampling)
            kwargs["kept_groups"] = [[int(group) for group in s.indices] for s in selections]

        result = self.base_processor(
            images=images,
            text=text,
            videos=clips,
            video_metadata=[m.for_prompt() for m in metadata],
            do_sample_frames=False,
            **kwargs,
        )
        if frames is not None:
            result["temporal_pixel_values"] = frames
        if "video_metadata" in result:
            result["video_metadata"] = metadata
        if text is not None:
            return_tensors = kwargs.get("return_tensors", kwargs.get("text_kwargs", {}).get("return_tensors"))
            result.update(self._query_tokens(self._queries(text, query), return_tensors))
        return result

    def _call_with_messages(self, messages, images, videos, query, selection, **kwargs) -> BatchFeature:
        add_generation_prompt = kwargs.pop("add_generation_prompt", True)
        kwargs.setdefault("return_tensors", "pt")
        if images is None and videos is None:
            return self.apply_chat_template(
                messages,
                query=query,
                selection=selection,
                add_generation_prompt=add_generation_prompt,
                tokenize=True,
                return_dict=True,
                return_tensors=kwargs.pop("return_tensors"),
                processor_kwargs=kwargs,
            )
        for kind, given in (("image", images), ("video", videos)):
            if given is None and (count := _count_parts(messages, kind)):
                raise ValueError(
                    f"The messages hold {count} {kind}{'' if count == 1 else 's'}, but `{kind}s=` was not given while "
                    f"`{'videos' if kind == 'image' else 'images'}=` was; pass both, or put all sources into the "
                    "messages and pass neither."
                )
        prompt = self.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
        query = _queries_of_conversations(messages, query)
        return self(text=prompt, images=images, videos=videos, query=query, selection=selection, **kwargs)

    def apply_chat_template(
        self,
        conversation,
        chat_template: str | None = None,
        *,
        query=None,
        selection=None,
        tokenize: bool = False,
        processor_kwargs: dict | None = None,
        **kwargs,
    ):
        """
        The base's chat template, messages passed as given; with `tokenize=True` everything [`__call__`] gives.

        Args:
            query, selection: as for [`__call__`]; the query defaults to the text of the last user turn.
            everything else: as in `ProcessorMixin.apply_chat_template`.
        """
        if tokenize:
            queries = _queries_of_conversations(conversation, query)
            processor_kwargs = {**(processor_kwargs or {}), "query": queries, "selection": selection}
        return super().apply_chat_template(
            conversation, chat_template, tokenize=tokenize, processor_kwargs=processor_kwargs, **kwargs
        )

    def first_look(self, video, query: str | None = None, *, video_metadata=None, **sampling) -> BatchFeature:
        """
        What is needed to choose from one video: all its candidates, small.

        Args:
            video: one video; see [`decode_candidates`].
            query (`str`, *optional*): the bare question.
            video_metadata, sampling: as for [`NTLBGVideoProcessor.fetch`].

        Returns:
            `BatchFeature` of tensors. Always **group_timestamps** `(T,)` in seconds and **frames_indices** `(N,)`,
            picture numbers. With a scorer **scorer_pixel_values** and whatever else its image tower takes, one picture
            per group, each named `scorer_<name>`, and with a query what [`scorer_query`] gives.
            Without one the base's inputs for a prompt of this video and query on a small grid.
        """
        if self.scorer_processor is None:
            return base_first_look(self, video, query, video_metadata, sampling)
        return scorer_first_look(self, video, query, video_metadata, sampling)

    def scorer_query(self, query: str) -> BatchFeature:
        """
        A further question for a scorer that has seen the video; see `model.encode_for_scorer`.

        Returns:
            `BatchFeature` of what the scorer's text tower takes (**scorer_input_ids**, **scorer_attention_mask**
            `(P, Ls)`); P is the number of pieces in which it can read the query, 1 unless that is long.

        Raises:
            ValueError: there is no scorer, or the query is far too long.
        """
        if self.scorer_processor is None:
            raise ValueError("This processor has no scorer; make it with `from_base(..., scorer_processor=...)`.")
        return scorer_query(self, query)

    # -- query ---------------------------------------------------------------------------------------------------

    def _queries(self, text: str | list[str], query) -> list[str]:
        """One query per row: the one given, else the last user turn's text."""
        prompts = [text] if isinstance(text, str) else list(text)
        given = _one_per_row(query, len(prompts))
        markers = (self.image_token, self.video_token)
        return [query_of_prompt(p, markers) if q is None else q for p, q in zip(prompts, given, strict=True)]

    def _query_tokens(self, queries: list[str], return_tensors: str | None) -> BatchFeature:
        ids = self.tokenizer(queries, add_special_tokens=False)["input_ids"]
        # one padded column at least, so that a row without a question is a masked row and not an empty tensor
        length = max(1, *(len(row) for row in ids))
        padded = [row + [self.tokenizer.pad_token_id] * (length - len(row)) for row in ids]
        mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
        return BatchFeature({"query_input_ids": padded, "query_attention_mask": mask}, tensor_type=return_tensors)

    # -- the base's helpers ---------------------------------------------------------------------------------------

    def post_process_image_text_to_text(self, generated_outputs, **kwargs) -> list[str]:
        """Decodes generated ids as the base does."""
        return self.base_processor.post_process_image_text_to_text(generated_outputs, **kwargs)

    # -- saving and loading ---------------------------------------------------------------------------------------

    def to_dict(self) -> dict:
        """Everything but the processors of scorer and second stream, which are saved in folders of their own."""
        apart = {name: self.__dict__.pop(name) for name in ("scorer_processor", "temporal_processor")}
        try:
            result = super().to_dict()
        finally:
            self.__dict__.update(apart)
        result["auto_map"] = dict(PROCESSOR_AUTO_MAP)
        return result

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Saves the processor with this code flat beside it; those of a scorer and of a second stream go to the
        sub-folders `scorer` and `temporal`."""
        self.scorer_folder = None if self.scorer_processor is None else SCORER_FOLDER
        if self.scorer_processor is not None:
            self.scorer_processor.save_pretrained(f"{save_directory}/{SCORER_FOLDER}")
        self.temporal_folder = None if self.temporal_processor is None else TEMPORAL_FOLDER
        if self.temporal_processor is not None:
            self.temporal_processor.save_pretrained(f"{save_directory}/{TEMPORAL_FOLDER}")
        # The code has to be there before a push inside `super()` collects the folder.
        if not is_remote_code(type(self)):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            save_remote_code(type(self), save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads a saved processor with those of its scorer and its second stream; arguments as in
        `ProcessorMixin.from_pretrained`."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        if processor.temporal_folder:
            processor.temporal_processor = transformers.AutoVideoProcessor.from_pretrained(
                pretrained_model_name_or_path, subfolder=processor.temporal_folder, **hub
            )
        if processor.scorer_folder:
            processor.scorer_processor = transformers.AutoProcessor.from_pretrained(
                pretrained_model_name_or_path, subfolder=processor.scorer_folder, **hub
            )
        return processor


HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "trust_remote_code")


def _one_per_row(query, rows: int) -> list:
    if query is None or isinstance(query, str):
        return [query] * rows
    if len(query) != rows:
        raise ValueError(f"Pass one query, or one per row, but got {len(query)} for {rows} rows.")
    return list(query)


def _queries_of_conversations(conversation, query) -> list[str]:
    conversations = [conversation] if is_conversation(conversation) else conversation
    given = _one_per_row(query, len(conversations))
    return [query_of_messages(c) if q is None else q for c, q in zip(conversations, given, strict=True)]


def _count_parts(conversation, kind: str) -> int:
    conversations = [conversation] if is_conversation(conversation) else conversation
    contents = [message.get("content") for messages in conversations for message in messages]
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    return sum(part.get("type") in (kind, f"{kind}_url") for part in parts)


def _without_fetching_kwargs(kwargs: dict) -> tuple[dict, dict, object]:
    """(kwargs for the base, kwargs for fetching, video_metadata): both may come flat or inside `videos_kwargs`."""
    kwargs = dict(kwargs)
    nested = dict(kwargs.pop("videos_kwargs", None) or {})
    fetching = {}
    for name in (*SAMPLING_KWARGS, "max_side", "video_metadata"):
        for place in (nested, kwargs):
            if name in place:
                fetching[name] = place.pop(name)
    video_metadata = fetching.pop("video_metadata", None)
    if nested:
        kwargs["videos_kwargs"] = nested
    return kwargs, fetching, video_metadata


register(NTLBGProcessor, transformers.AutoProcessor, key=NTLBGConfig)


__all__ = ["NTLBGProcessor"]


# All that this file needs, for transformers 4, which reads no further than here; never run.
if False:
    from .configuration_ntlbg import __name__
    from .dual_encoder_ntlbg import __name__
    from .first_look_ntlbg import __name__
    from .frame_bases_ntlbg import __name__
    from .frame_numbers_ntlbg import __name__
    from .mov_tables_ntlbg import __name__
    from .query_text_ntlbg import __name__
    from .remote_code_ntlbg import __name__
    from .requirements_ntlbg import __name__
    from .segments_ntlbg import __name__
    from .temporal_clip_ntlbg import __name__
    from .temporal_frames_ntlbg import __name__
    from .video_decoding_ntlbg import __name__
    from .video_download_ntlbg import __name__
    from .video_images_ntlbg import __name__
    from .video_index_ntlbg import __name__
    from .video_processing_ntlbg import __name__
    from .video_reader_ntlbg import __name__
    from .video_scan_ntlbg import __name__
    from .video_source_ntlbg import __name__
    from .video_torchcodec_ntlbg import __name__
    from .video_walk_ntlbg import __name__
