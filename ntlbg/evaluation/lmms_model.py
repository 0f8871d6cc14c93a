r"""`lmms-eval --model ntlbg`: an NTLBG checkpoint, or any vision-language model behind a selector of frames.

    lmms-eval --model ntlbg --tasks videomme --model_args pretrained=Qwen/Qwen2-VL-7B-Instruct,num_representatives=32
    lmms-eval --model ntlbg --tasks videomme \
      --model_args pretrained=Qwen/Qwen2-VL-7B-Instruct,num_representatives=32,selector=uniform

The model is asked the task's own prompt, about frames chosen for the document's bare question, at their true times.
Its answer is reduced to what the task's parser reads; how many could not be is counted apart from how many are right.
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from ntlbg.cli_common import check_device, one_line
from ntlbg.data.benchmark_subtitles import benchmark_subtitles
from ntlbg.errors import InputError
from ntlbg.evaluation.harness_questions import TaskQuestion, task_question
from ntlbg.processors.video_source_ntlbg import VideoError
from ntlbg.report.evidence import Evidence
from ntlbg.selection.answering import load_answerer
from ntlbg.selection.answers import Answer
from ntlbg.selection.choosing import OURS
from ntlbg.selection.image_answering import OpenImages
from ntlbg.selection.subtitles import SubtitleError
from ntlbg.selection.video_answering import OpenVideo


UNPARSED = "unparsed"  # says nothing that its task's parser reads


class NTLBG(lmms):
    """
    The arguments are those of `--model_args`; lmms-eval gives `device`, `batch_size` and `max_batch_size` itself.

    Args:
        pretrained: an NTLBG checkpoint, a base of its families, or any other model of transformers that takes images.
        selector: who chooses the frames, of `choosing.SELECTORS`.
        num_representatives: how many groups it sees (a model that takes images: frames); None: the checkpoint's own.
        encoder: dual encoder that judges the frames for a model that is no NTLBG checkpoint; "none" for nobody.
        candidate_fps, max_candidates: which frames there are to choose from.
        max_new_tokens: longest answer; None: what the task allows.
        dtype, attn_implementation, trust_remote_code: see `load_answerer`.
        subtitle_seconds: of tasks that tell subtitles, how far from a chosen moment they may be; 0: what is on the
            screen with it.
        report: a JSONL file that gets every answer as it was before it was reduced, and what it was given from.
        device: a GPU if there is one; of several processes each takes its own.
        batch_size, max_batch_size: 1; each question has frames of its own.

    Raises:
        InputError: an argument is unknown, or cannot be used.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        selector: str = OURS,
        num_representatives: int | None = None,
        encoder: str | None = None,
        candidate_fps: float | None = None,
        max_candidates: int | None = None,
        max_new_tokens: int | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        subtitle_seconds: float = 0.0,
        report: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            given_by_harness = ("unknown", "device", "batch_size", "max_batch_size")
            known = [name for name in inspect.signature(NTLBG).parameters if name not in given_by_harness]
            raise InputError(f"ntlbg has no argument {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        if not pretrained:
            raise InputError("ntlbg needs a model; give --model_args pretrained=FOLDER or a Hub name")
        for name, value in (
            ("num_representatives", num_representatives),
            ("max_candidates", max_candidates),
            ("max_new_tokens", max_new_tokens),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name} is a whole number of at least 1, got {value!r}")
        for name, value, least in (("candidate_fps", candidate_fps, 1e-6), ("subtitle_seconds", subtitle_seconds, 0)):
            if value is not None and (not isinstance(value, int | float) or not least <= value < float("inf")):
                raise InputError(f"{name} is a number {'above' if least else 'of at least'} 0, got {value!r}")
        if batch_size not in (None, 1, "1"):
            raise InputError(f"every question has frames of its own, so batch_size is 1, got {batch_size}")
        if report is not None and not Path(report).parent.is_dir():
            raise InputError(f"report {report!r} lies in a folder that does not exist; create it")
        check_device(device)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        several = self._world_size > 1
        self.answerer = load_answerer(
            str(pretrained),
            encoder=encoder,
            device=self.accelerator.device if several else device,
            trust_remote_code=trust_remote_code,
            selector=selector,
            candidate_fps=candidate_fps,
            max_candidates=max_candidates,
            dtype=dtype,
            attn_implementation=attn_implementation,
        )
        self.device = self.answerer.model.device
        self.num_representatives = num_representatives
        self.max_new_tokens = max_new_tokens
        self.subtitle_seconds = subtitle_seconds
        self.report = None if report is None else Path(f"{report}.{self._rank}" if several else report)
        if self.report is not None:
            self.report.write_text("", encoding="utf-8")
        # What went wrong with each answer; by document, because lmms-eval gives processes documents twice to even out.
        self._troubles: dict[tuple[str, Any], set[str]] = {}
        self._seconds = 0.0

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> NTLBG:
        """How lmms-eval makes the model. What cannot be used is one sentence and exit code 2: lmms-eval itself would
        print a traceback, and leave with 0."""
        try:
            return super().create_from_arg_string(arg_string, additional_config)
        except InputError as error:
            print(f"ntlbg: error: {one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from error

    def loglikelihood(self, requests: list[Instance]) -> list:
        raise InputError("ntlbg writes answers and gives no likelihoods; choose tasks whose output is generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list:
        raise InputError("ntlbg answers one question at a time; choose tasks whose output is generate_until")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """One reduced answer a request, greedily; questions about one video are asked together."""
        asked = [self._asked(request) for request in requests]
        answers = [one.question.unread for one in asked]
        source = opened = None
        lacks: set[str] = set()
        started = time.perf_counter()
        order = sorted(range(len(asked)), key=lambda number: asked[number].source)
        for number in tqdm(order, desc="ntlbg", disable=self._rank != 0):
            one = asked[number]
            trouble = self._troubles[one.task, one.doc_id] = set()
            try:
                if source != one.source:
                    # The features of the video before are not kept beside the new ones.
                    source = opened = None
                    opened, lacks = self._open(one)
                    source = one.source
                trouble |= lacks
                self.answerer.max_new_tokens = self.max_new_tokens or one.max_new_tokens
                answer = opened.ask(one.question.query, self.num_representatives, prompt=one.prompt)
            except VideoError as error:
                trouble.add("with videos that cannot be read")
                logger.warning(f"{one.task} {one.doc_id} is wrong: its video cannot be read: {error}")
                continue
            reduced = one.question.reduced(answer.text)
            if reduced is None:
                trouble.add(UNPARSED)
            else:
                answers[number] = reduced
            self._note(one, reduced, answer)
            self.cache_hook.add_partial("generate_until", (one.prompt, requests[number].args[2]), answers[number])
        self._seconds += time.perf_counter() - started
        return answers

    def clean(self) -> None:
        """What lmms-eval calls when all is answered: tell the rates, and let go of the model, because a judge may be
        started on the same GPU."""
        self._tell()
        self.answerer = None
        super().clean()

    def _asked(self, request: Instance) -> _Asked:
        _, doc_to_messages, options, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        parts: list[dict] = []
        for message in doc_to_messages(doc):
            if message["role"] == "assistant":
                raise InputError(f"{task} shows answered examples, which ntlbg does not take; give --num_fewshot 0")
            content = message["content"]
            parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
        videos = [part["url"] for part in parts if part["type"] == "video"]
        others = sorted({part["type"] for part in parts} - {"video", "text", "subtitles"})
        if len(videos) != 1 or others:
            given = " and ".join([f"{len(videos)} videos", *others])
            raise InputError(f"ntlbg answers questions about one video, but {task} gives {given}; choose another task")
        if options.get("do_sample") or (options.get("num_beams") or 1) > 1:
            raise InputError(f"{task} asks for sampling or beams, but ntlbg answers greedily; give --gen_kwargs")
        prompt = "\n".join(part["text"] for part in parts if part["type"] == "text").strip()
        return _Asked(
            task=task,
            doc_id=doc_id,
            video=str(videos[0]),
            prompt=prompt,
            question=task_question(doc, prompt),
            max_new_tokens=options.get("max_new_tokens", 128),
            subtitles=next((part for part in parts if part["type"] == "subtitles"), None),
        )

    def _open(self, one: _Asked) -> tuple[OpenVideo | OpenImages, set[str]]:
        """The video, and what all questions about it have to do without."""
        told, lacks = None, set()
        if one.subtitles is not None:
            try:
                offset, duration = one.subtitles.get("offset", 0.0), one.subtitles.get("duration")
                told = benchmark_subtitles(one.subtitles["url"], offset, duration)
            except SubtitleError as error:
                lacks.add("without subtitles, which cannot be read")
                logger.warning(f"{one.task}: {one.video} goes without subtitles: {error}")
        return self.answerer.open(one.video, told, self.subtitle_seconds), lacks

    def _note(self, one: _Asked, reduced: str | None, answer: Answer) -> None:
        if self.report is None:
            return
        evidence = Evidence.of(answer.selection)
        line = {
            "task": one.task,
            "doc_id": one.doc_id,
            "video": one.video,
            "query": one.question.query,
            "text": answer.text,
            "answer": reduced,
            "seconds": [round(float(second), 3) for second in evidence.seconds],
            "candidates": len(evidence.candidate_seconds),
            "spoken": None if answer.spoken is None else sum(map(len, answer.spoken)),
            "notes": answer.notes,
            "timings": answer.timings,
        }
        with self.report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _tell(self) -> None:
        """Log the rates over all processes, and put them beside the results (`throughput`)."""
        everywhere: dict[tuple[str, Any], set[str]] = {}
        for troubles in gather_object([self._troubles]):
            everywhere |= troubles
        shares = {}
        for task in sorted({task for task, _ in everywhere}):
            of_task = [trouble for (name, _), trouble in everywhere.items() if name == task]
            counts = Counter(chain.from_iterable(of_task))
            shares[f"unparsed_share_{task}"] = share = counts.pop(UNPARSED, 0) / len(of_task)
            told = f"ntlbg: {task}: {len(of_task)} answers, {share:.1%} unparsed"
            told += "".join(f", {count} {what}" for what, count in sorted(counts.items()))
            if self._rank == 0:
                (logger.warning if share or counts else logger.info)(told)
        if shares:
            log_metrics(self._seconds, 0, 0.0, shares | {"total_requests": len(everywhere)})


@dataclass(frozen=True)
class _Asked:
    """One request, read."""

    task: str
    doc_id: int
    video: str
    prompt: str
    question: TaskQuestion
    max_new_tokens: int
    subtitles: dict | None

    @property
    def source(self) -> tuple[str, str]:
        """What is opened for it."""
        return self.video, "" if self.subtitles is None else str(sorted(self.subtitles.items()))
