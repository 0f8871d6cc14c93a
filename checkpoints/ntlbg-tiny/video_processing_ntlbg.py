"""The video processor: candidate frames at true times from our decoder, tensors from the base's own video processor.

Shapes: N candidate frames, T = ceil(N / temporal_patch_size) groups, k chosen groups, H x W pixels.
"""

# First of all, so that an older transformers is told by name.
from .requirements_ntlbg import VERSION  # noqa: F401


# isort: split
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from transformers import AutoVideoProcessor
from transformers.image_processing_utils import BatchFeature
from transformers.models.auto.video_processing_auto import video_processor_class_from_name
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .configuration_ntlbg import NTLBGConfig
from .remote_code_ntlbg import (
    VIDEO_PROCESSOR_AUTO_MAP,
    is_remote_code,
    register,
    save_remote_code,
)
from .frame_numbers_ntlbg import NUMBER_SIZE, SMALLEST, check_numbers, number_frames
from .video_decoding_ntlbg import open_video, take_frames, thin_candidates
from .video_reader_ntlbg import VideoReader
from .video_source_ntlbg import (
    CandidateFrames,
    VideoError,
    VideoLimits,
    flatten_videos,
    frames_in_memory,
    is_decoded,
    is_encoded_source,
    unclipped,
)


@dataclass(eq=False)
class TimedVideoMetadata(VideoMetadata):
    """
    transformers' metadata with the frames' true times, which picture number / average rate only approximates.

    Args:
        frame_timestamps (`np.ndarray` of shape `(N,)`): seconds of each frame in `frames_indices`.
        warnings (`list[str]`): what decoding found damaged, dropped or assumed.
    """

    frame_timestamps: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the sampled frames."""
        return self.frame_timestamps.tolist()

    @classmethod
    def of(cls, video: CandidateFrames) -> "TimedVideoMetadata":
        return cls(
            total_num_frames=video.total_num_frames,
            fps=video.fps,
            width=video.width,
            height=video.height,
            duration=video.duration,
            video_backend="pyav",
            frames_indices=video.indices,
            frame_timestamps=video.timestamps,
            warnings=video.warnings,
        )

    def for_prompt(self) -> "TimedVideoMetadata":
        """
        What a base processor should be told to write the right times into its prompt.

        The bases compute a frame's time as picture number / average rate. At a constant rate that is the true time and
        the metadata are returned as they are. At a variable rate the picture numbers are replaced by time x rate, so
        that the same division gives the true time.
        """
        if np.abs(self.frames_indices / self.fps - self.frame_timestamps).max() <= 0.5 / self.fps:
            return self
        return replace(self, frames_indices=self.frame_timestamps * self.fps)


class NTLBGVideosKwargs(TypedDict, total=False):
    r"""
    do_sample_frames (`bool`, *optional*, defaults to `True`):
        Whether to take candidates on a grid uniform in time, or every picture.
    candidate_fps (`float`, *optional*, defaults to 2.0):
        Candidate frames per second of video.
    max_candidates (`int`, *optional*, defaults to 768):
        Cap on the candidate frames; a longer video gets a coarser grid.
    max_side (`int`, *optional*, defaults to 1280):
        Files are scaled down to this longer side while decoding, before the base's own resizing.
    kept_groups (`list[list[int]]`, *optional*):
        Second look: the clips hold the frames of these groups only, the metadata tell of all frames.
    frame_grid (`list[int]`, *optional*):
        Rows and columns of tokens of a frame, for a base that gives every frame the same (LLaVA-OneVision, InternVL).
    number_frames (`bool`, *optional*, defaults to `False`):
        Whether to draw on each frame its number among the candidates, before the base's own resizing. All frames of a
        group bear the number of its first: the base fuses them into one picture. A chosen group keeps its number, so
        that number n always means the time of candidate n.
    number_color (`str`, *optional*, defaults to `"red"`), number_size (`float`, *optional*, defaults to 40 / 336),
    number_position (`str`, *optional*, defaults to `"bottom_right"`):
        How they look, see [`number_frames`].
    """

    do_sample_frames: bool | None
    candidate_fps: float | int | None
    max_candidates: int | None
    max_side: int | None
    kept_groups: list | None
    frame_grid: list | None
    number_frames: bool | None
    number_color: str | None
    number_size: float | None
    number_position: str | None


class NTLBGVideoProcessor(BaseVideoProcessor):
    r"""
    Decodes with the library's own decoder (exact pictures, true times, hostile files refused) and hands the frames to
    the video processor of the base VLM, whose tensors it returns unchanged, together with `group_timestamps`.

    Args:
        base_video_processor (`BaseVideoProcessor` or `dict`):
            The base VLM's video processor, or its dictionary with `video_processor_type`.
        limits (`VideoLimits`, *optional*):
            What a video may cost, and whether addresses are opened. Belongs to the session and is never saved: a
            checkpoint must not decide it.
        kwargs:
            See [`NTLBGVideosKwargs`]. In a call, `fps` overrides `candidate_fps` and `num_frames` asks for that many
            frames whatever the rate, as in the bases; everything else goes to the base.
    """

    candidate_fps = 2.0
    max_candidates = 768
    max_side = 1280
    do_sample_frames = True
    frame_grid = None
    number_frames = False
    number_color = "red"
    number_size = NUMBER_SIZE
    number_position = "bottom_right"
    valid_kwargs = NTLBGVideosKwargs
    limits = VideoLimits()

    def __init__(self, base_video_processor=None, limits: VideoLimits | None = None, **kwargs):
        super().__init__(**kwargs)
        if limits is not None:
            # by name, as in `is_decoded`
            if type(limits).__name__ != "VideoLimits":
                raise ValueError(f"`limits` must be VideoLimits, but got {type(limits).__name__}.")
            self.limits = limits
        if isinstance(base_video_processor, dict):
            name = base_video_processor.get("video_processor_type")
            base_class = video_processor_class_from_name(name) if name else None
            if base_class is None:
                raise ValueError(
                    "`base_video_processor` must name a video processor of transformers in `video_processor_type`, "
                    f"but got {name!r}."
                )
            base_video_processor = base_class(**base_video_processor)
        if not isinstance(base_video_processor, BaseVideoProcessor):
            raise ValueError(
                "`base_video_processor` must be the base VLM's video processor or its dictionary, but got "
                f"{type(base_video_processor).__name__}; use `NTLBGProcessor.from_base(...)`."
            )
        check_numbers(self.number_color, self.number_size, self.number_position)
        self.base = base_video_processor
        self._accept_kwargs_of_base()

    def _accept_kwargs_of_base(self):
        # the base's own arguments are accepted in a call and passed through
        base_kwargs = self.base.valid_kwargs.__annotations__
        own_kwargs = NTLBGVideosKwargs.__annotations__
        self.valid_kwargs = TypedDict("valid_kwargs", {**base_kwargs, **own_kwargs}, total=False)

    def __getstate__(self) -> dict:
        # a class made here has no name to be pickled by, and workers that are spawned get their processor pickled
        return {name: value for name, value in self.__dict__.items() if name != "valid_kwargs"}

    def __setstate__(self, state: dict):
        self.__dict__.update(state)
        self._accept_kwargs_of_base()

    def _standardize_kwargs(self, **kwargs) -> dict:
        # sizes, means and the like belong to the base, which standardises them itself
        return kwargs

    def to_dict(self) -> dict:
        """Own settings plus, under `base_video_processor`, those of the base."""
        result = super().to_dict()
        result.pop("base")
        result.pop("valid_kwargs")
        result.pop("limits", None)
        result["base_video_processor"] = self.base.to_dict()
        result["auto_map"] = dict(VIDEO_PROCESSOR_AUTO_MAP)
        return result

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """As transformers does, with this code flat beside it."""
        if not is_remote_code(type(self)):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            save_remote_code(type(self), save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @property
    def temporal_patch_size(self) -> int:
        """Frames per group."""
        return self.base.temporal_patch_size if self.frame_grid is None else 1

    @property
    def merge_size(self) -> int:
        return self.base.merge_size if self.frame_grid is None else 1

    @property
    def patch_size(self) -> int:
        return self.base.patch_size if self.frame_grid is None else 1

    @property
    def size(self):
        return self.base.size

    @property
    def model_input_names(self) -> list[str]:
        own = ["video_grid_thw", "group_timestamps", "kept_group_indices", "kept_group_counts"]
        return list(dict.fromkeys([*self.base.model_input_names, *own]))

    def get_num_of_video_patches(self, num_frames: int, height: int, width: int, videos_kwargs: dict | None = None):
        """Patches of a video of this size, as the base counts them; tokens where every frame has the same number."""
        if self.frame_grid is not None:
            return num_frames * self.frame_grid[0] * self.frame_grid[1]
        return self.base.get_num_of_video_patches(num_frames, height, width, videos_kwargs or {})

    def num_groups(self, num_frames: int) -> int:
        """T = ceil(N / temporal_patch_size)."""
        return -(-num_frames // self.temporal_patch_size)

    # -- fetching ------------------------------------------------------------------------------------------------

    def sampling(
        self,
        do_sample_frames: bool | None = None,
        candidate_fps: float | None = None,
        max_candidates: int | None = None,
        fps: float | None = None,
        num_frames: int | None = None,
    ) -> tuple[float | None, int] | None:
        """(candidates per second or None for as many as the cap allows, cap); None for every picture."""
        if not (self.do_sample_frames if do_sample_frames is None else do_sample_frames):
            return None
        if num_frames is not None:
            if fps is not None:
                raise ValueError(f"Pass either `fps` or `num_frames`, but got fps={fps} and num_frames={num_frames}.")
            return None, num_frames
        rate = fps if fps is not None else candidate_fps
        cap = max_candidates if max_candidates is not None else self.max_candidates
        return self.candidate_fps if rate is None else rate, cap

    def fetch(self, videos, video_metadata=None, *, max_side: int | None = None, **sampling) -> list[CandidateFrames]:
        """
        Candidate frames of one or many videos.

        Args:
            videos: one video or (nested) lists of them; see [`decode_candidates`] for what a video may be. A
                [`CandidateFrames`] is passed through.
            video_metadata (*optional*): for frames in memory: one `VideoMetadata` or dictionary per video, of which
                `fps`, `frames_indices` and `total_num_frames` are used.
            max_side (`int`, *optional*): overrides the processor's.
            sampling: `do_sample_frames`, `candidate_fps`, `max_candidates`, `fps`, `num_frames`: instead of the
                processor's own.

        Returns:
            `list[CandidateFrames]`, in the order of the videos.

        Raises:
            VideoError: a video cannot be used.
        """
        sources = flatten_videos(videos)
        grid = self.sampling(**sampling)
        pairs = zip(sources, _per_video(video_metadata, len(sources)), strict=True)
        return [self._fetch_one(source, metadata, grid, max_side or self.max_side) for source, metadata in pairs]

    def _fetch_one(self, source, metadata, grid, max_side: int | None) -> CandidateFrames:
        if is_decoded(source):
            return source
        if is_encoded_source(source):
            with open_video(source, self.limits) as video:
                return video.read(_grid_pictures(video, grid), max_side, drop_missing=True)
        video = _in_memory(source, metadata)
        if grid is None:
            return video
        # frames of unknown rate are candidates already: an assumed rate must not thin them
        known_rate = metadata is not None and metadata.get("fps") is not None
        return thin_candidates(video, grid[0] if known_rate else None, grid[1])

    def fetch_selected(
        self, videos, selections: list, video_metadata=None, *, max_side: int | None = None, **sampling
    ) -> list[tuple[CandidateFrames, TimedVideoMetadata]]:
        """
        Second look: only the pictures of the chosen groups, with the metadata of all candidates.

        Args:
            videos, video_metadata: as for [`fetch`].
            selections (`list`): one object per video with `indices` (k,), `num_groups`, `temporal_patch_size`,
                `group_timestamps` (T,) and `frames_indices` (N,) or None, in which case the grid is computed again.
            max_side (`int`, *optional*): longer side of the decoded pictures; full size by default.
            sampling: as for [`fetch`]; used where a selection has no `frames_indices`.

        Returns:
            per video the k * temporal_patch_size frames, and the metadata of all N candidates.

        Raises:
            ValueError: a selection does not belong to its video. VideoError: a video cannot be used.
        """
        sources = flatten_videos(videos)
        if len(sources) != len(selections):
            raise ValueError(f"Pass one selection per video, but got {len(selections)} for {len(sources)} videos.")
        grid = self.sampling(**sampling)
        metadata = _per_video(video_metadata, len(sources))
        return [
            self._fetch_selected_one(*arguments, grid, max_side)
            for arguments in zip(sources, selections, metadata, strict=True)
        ]

    def _fetch_selected_one(self, source, selection, metadata, grid, max_side):
        numbers = selection.frames_indices
        if is_encoded_source(source):
            with open_video(source, self.limits) as video:
                numbers = _grid_pictures(video, grid) if numbers is None else _integers(numbers)
                if numbers.min() < 0 or numbers.max() >= len(video.times):
                    raise ValueError(f"The selection speaks of pictures that {video.name!r} does not have.")
                times = video.times[numbers]
                positions = self._chosen_positions(selection, times, video.name)
                frames = video.read(numbers[positions], max_side)
        else:
            video = source if is_decoded(source) else None
            if video is None and numbers is None:
                video = self._fetch_one(source, metadata, grid, None)
            elif video is None:
                video = _in_memory(source, metadata)
            numbers = video.indices if numbers is None else _integers(numbers)
            rows = np.clip(np.searchsorted(video.indices, numbers), 0, len(video) - 1)
            if (video.indices[rows] != numbers).any():
                raise ValueError(f"The selection speaks of pictures that {video.name!r} does not have.")
            times = video.timestamps[rows]
            frames = take_frames(video, rows[self._chosen_positions(selection, times, video.name)])
        everything = replace(TimedVideoMetadata.of(frames), frames_indices=numbers, frame_timestamps=times)
        return frames, everything

    def _chosen_positions(self, selection, times: np.ndarray, name: str) -> np.ndarray:
        """Positions among the N candidates of the k * temporal_patch_size frames of the chosen groups, after checking
        that `selection` belongs to the video whose candidates are at `times` (N,)."""
        per_group, groups = self.temporal_patch_size, _integers(selection.indices)
        if selection.temporal_patch_size != per_group or self.num_groups(len(times)) != selection.num_groups:
            raise ValueError(
                f"The selection has {selection.num_groups} groups of {selection.temporal_patch_size} frames, but the "
                f"{len(times)} candidates of {name!r} make {self.num_groups(len(times))} groups of {per_group}; "
                "select again with this processor."
            )
        if not len(groups) or groups.min() < 0 or groups.max() >= selection.num_groups or (np.diff(groups) <= 0).any():
            raise ValueError(
                f"The selection's groups must be distinct, ascending and within 0..{selection.num_groups - 1}, but "
                f"got {groups.tolist()}."
            )
        expected = np.asarray(torch.as_tensor(selection.group_timestamps).cpu(), dtype=np.float64)
        # float32 seconds of a day are good to 4 ms
        if expected.shape != times[::per_group].shape or np.abs(expected - times[::per_group]).max() > 0.01:
            raise ValueError(
                f"The selection was made for another video than {name!r}, or on another candidate grid: its group "
                "times differ; select again."
            )
        # a last group of an odd number of candidates repeats its last frame, as the base does
        positions = groups[:, None] * per_group + np.arange(per_group)
        return np.minimum(positions, len(times) - 1).ravel()

    # -- tensors -------------------------------------------------------------------------------------------------

    def preprocess(self, videos, video_metadata=None, kept_groups: list | None = None, **kwargs) -> BatchFeature:
        r"""
        Fetches `videos` and turns them into the base's tensors.

        Args:
            videos, video_metadata: as for [`fetch`]. Clips (N, H, W, 3) that come with [`TimedVideoMetadata`] are
                taken as fetched already.
            kept_groups (`list[list[int]]`, *optional*): see [`NTLBGVideosKwargs`].
            kwargs: sampling as for [`fetch`], everything else as the base takes it (`size`, `return_tensors`, ...).

        Returns:
            `BatchFeature`: what the base returns (`pixel_values_videos`, `video_grid_thw`, ...; with `frame_grid` the
            frames of all videos, one after the other, and a grid made from it) and

            - **group_timestamps** (`torch.FloatTensor` of shape `(sum of T,)`): seconds of each group's first picture.
            - with `kept_groups`: pixels of these groups only, while `video_grid_thw` tells of all T groups, and
              **kept_group_indices** (`torch.LongTensor` of shape `(sum of k,)`), **kept_group_counts**
              (`torch.LongTensor` of shape `(number of videos,)`).
            - with `return_metadata=True`: **video_metadata**, a list of [`TimedVideoMetadata`].
        """
        sampling = {name: kwargs.pop(name) for name in SAMPLING_KWARGS if name in kwargs}
        max_side = kwargs.pop("max_side", None)
        return_metadata = kwargs.pop("return_metadata", False)
        return_tensors = kwargs.pop("return_tensors", None)
        kwargs.pop("input_data_format", None)
        kwargs.pop("frame_grid", None)
        style = {name: kwargs.pop(name, None) for name in NUMBER_KWARGS}
        if _all_timed(video_metadata):
            clips = list(videos)
        else:
            fetched = self.fetch(videos, video_metadata, max_side=max_side, **sampling)
            clips, video_metadata = [v.frames for v in fetched], [TimedVideoMetadata.of(v) for v in fetched]

        per_group = self.temporal_patch_size
        if self.number_frames if style["number_frames"] is None else style["number_frames"]:
            clips = self._numbered(clips, kept_groups, style, kwargs)
        inputs = [torch.from_numpy(_at_least(np.asarray(clip), per_group)) for clip in clips]
        data = self._base_tensors(inputs, **kwargs)
        times = [metadata.frame_timestamps[::per_group] for metadata in video_metadata]
        data["group_timestamps"] = torch.from_numpy(np.concatenate(times).astype(np.float32))
        if kept_groups is not None:
            data["kept_group_indices"] = torch.tensor([g for groups in kept_groups for g in groups], dtype=torch.long)
            data["kept_group_counts"] = torch.tensor([len(groups) for groups in kept_groups], dtype=torch.long)
            data["video_grid_thw"] = data["video_grid_thw"].clone()
            data["video_grid_thw"][:, 0] = torch.tensor([len(t) for t in times])
        if return_metadata:
            data["video_metadata"] = list(video_metadata)
        return BatchFeature(dict(data), tensor_type=return_tensors, skip_tensor_conversion=["video_metadata"])

    def _base_tensors(self, clips: list[torch.Tensor], **kwargs) -> BatchFeature:
        kwargs |= {"do_sample_frames": False, "input_data_format": "channels_last"}
        if self.frame_grid is None:
            return self.base(clips, return_tensors="pt", **kwargs)
        data = self.base(clips, return_tensors=None, **kwargs)
        data["pixel_values_videos"] = torch.cat(list(data["pixel_values_videos"]))
        data["video_grid_thw"] = torch.tensor([[len(clip), *self.frame_grid] for clip in clips])
        return data

    def _numbered(self, clips: list, kept_groups: list | None, style: dict, kwargs: dict) -> list[np.ndarray]:
        """The clips with each frame's number drawn; with `kept_groups`, which groups of all candidates they hold."""
        per_group, numbered = self.temporal_patch_size, []
        for number, clip in enumerate(clips):
            clip = np.asarray(clip)
            groups = np.arange(self.num_groups(len(clip))) if kept_groups is None else np.asarray(kept_groups[number])
            numbers = np.repeat(groups * per_group, per_group)[: len(clip)]
            numbered.append(
                number_frames(
                    clip,
                    numbers,
                    style["number_color"] or self.number_color,
                    self._number_size(clip, style["number_size"] or self.number_size, kwargs),
                    style["number_position"] or self.number_position,
                )
            )
        return numbered

    def _number_size(self, clip: np.ndarray, size: float, kwargs: dict) -> float:
        """`size`, or the larger share at which a number can still be read when the base has scaled the frames down."""
        if not len(clip) or self.frame_grid is not None or kwargs.get("do_resize") is False:
            return size
        count = max(len(clip), self.temporal_patch_size)
        patches = self.base.get_num_of_video_patches(count, *clip.shape[1:3], {"size": kwargs.get("size")})
        side = self.patch_size * math.sqrt(patches / self.num_groups(count))
        return min(1.0, max(size, SMALLEST / side))


NUMBER_KWARGS = ("number_frames", "number_color", "number_size", "number_position")

# How candidates are taken; every one may be given in a call.
SAMPLING_KWARGS = ("do_sample_frames", "candidate_fps", "max_candidates", "fps", "num_frames")


def _grid_pictures(video: VideoReader, grid: tuple[float | None, int] | None) -> np.ndarray:
    return video.pictures if grid is None else video.candidate_pictures(*grid)


def _in_memory(source, metadata) -> CandidateFrames:
    if metadata is None:
        return frames_in_memory(source)
    indices, count = metadata.get("frames_indices"), len(unclipped(source)[0])
    if indices is not None and len(indices) != count:
        raise VideoError(
            f"`frames_indices` of the metadata must name each of the {count} given frames, but has "
            f"{len(indices)} entries; leave it out for a whole video."
        )
    return frames_in_memory(source, metadata.get("fps"), indices, metadata.get("total_num_frames"))


def _per_video(video_metadata, count: int) -> list:
    """`video_metadata` (None, one, a list, or lists nested by row) as one entry per video."""
    if video_metadata is None:
        return [None] * count
    if not isinstance(video_metadata, list | tuple):
        video_metadata = [video_metadata]
    flat = [m for entry in video_metadata for m in (entry if isinstance(entry, list | tuple) else [entry])]
    if len(flat) != count:
        raise ValueError(f"Pass one `video_metadata` entry per video, but got {len(flat)} for {count} videos.")
    return flat


def _all_timed(video_metadata) -> bool:
    # by name, as in `is_decoded`
    return isinstance(video_metadata, list) and all(type(m).__name__ == "TimedVideoMetadata" for m in video_metadata)


def _integers(values) -> np.ndarray:
    return np.asarray(torch.as_tensor(values).cpu(), dtype=np.int64)


def _at_least(clip: np.ndarray, count: int) -> np.ndarray:
    """`clip` (N, H, W, 3), its last frame repeated until there are `count`: Qwen3-VL refuses less than one group."""
    missing = count - len(clip)
    return clip if missing <= 0 else np.concatenate([clip, np.repeat(clip[-1:], missing, axis=0)])


register(NTLBGVideoProcessor, AutoVideoProcessor, key=NTLBGConfig)


__all__ = ["NTLBGVideoProcessor", "NTLBGVideosKwargs", "TimedVideoMetadata"]


# All that this file needs, for transformers 4, which reads no further than here; never run.
if False:
    from .configuration_ntlbg import __name__
    from .frame_numbers_ntlbg import __name__
    from .mov_tables_ntlbg import __name__
    from .remote_code_ntlbg import __name__
    from .requirements_ntlbg import __name__
    from .temporal_clip_ntlbg import __name__
    from .video_decoding_ntlbg import __name__
    from .video_download_ntlbg import __name__
    from .video_images_ntlbg import __name__
    from .video_index_ntlbg import __name__
    from .video_reader_ntlbg import __name__
    from .video_scan_ntlbg import __name__
    from .video_source_ntlbg import __name__
    from .video_torchcodec_ntlbg import __name__
    from .video_walk_ntlbg import __name__
