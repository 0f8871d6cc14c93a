"""The page: a video and a question in; an answer, the moments it rests on, and a contact sheet out.

    python app.py                                             # ntlbg-tiny and two videos of its own world
    python app.py --model Qwen/Qwen2-VL-7B-Instruct           # any model that `ntlbg ask --model` takes

Address and port are Gradio's: GRADIO_SERVER_NAME, GRADIO_SERVER_PORT.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import gradio as gr

from ntlbg.app.model_worker import AnswerView, Cancelled, Job, ModelSettings, ModelWorker, Stage, WorkerError
from ntlbg.app.samples import Sample, render_samples
from ntlbg.cli_common import one_line
from ntlbg.errors import InputError
from ntlbg.plain_text import shown
from ntlbg.tiny_checkpoint import TINY, check_tiny


MOST_MOMENTS = 64
# Who may wait; runs wait in the line of the one model, which can be left, and Gradio tells one more to come back.
MOST_VISITORS = 32
# An upload is deleted after a day, and none may be larger than this.
KEPT_SECONDS = 86400
LARGEST_UPLOAD = "4gb"
ABOUT_TINY = (
    "The model here is ntlbg-tiny: it knows the little world of the two sample videos, which it has never seen, and "
    "nothing of real footage."
)
HINT = '<p class="hint">Choose a video, ask a question about it, and see which moments the answer rests on.</p>'


def build_page(worker: ModelWorker, selectors: Sequence[str], samples: list[Sample], about: str) -> gr.Blocks:
    """The Gradio page over one model.

    Args:
        selectors: names of the rules that can choose, `ntlbg` among them.
        samples: the first one is there when the page opens.
        about: a sentence on the model, below the title.
    """

    def answer(video: str | None, question: str, k: int, selector: str, request: gr.Request) -> Iterator[tuple]:
        busy = (gr.Button(interactive=False), gr.Button(interactive=True))
        idle = (gr.Button(interactive=True), gr.Button(interactive=False))
        if video is None:
            yield _trouble("there is no video; upload one, or take a sample"), "", "", *idle
            return
        if not question.strip():
            yield _trouble("the question is empty; ask something"), "", "", *idle
            return
        start = time.monotonic()
        run = worker.run(Job(video, question, int(k), selector), request.session_hash)
        yield _busy("waiting for the model", 0.0), "", "", *busy
        try:
            for step in run:
                if isinstance(step, Stage):
                    yield _busy(step.name, time.monotonic() - start), "", "", *busy
                elif isinstance(step, AnswerView):
                    yield step.answer, step.timeline, step.sheet, *idle
        except Cancelled:
            yield '<p class="hint" role="status">Cancelled.</p>', "", "", *idle
        except WorkerError as error:
            yield _trouble(one_line(error)), "", "", *idle
        except Exception:
            # Ours to mend, so Gradio shows it and the log has it; but whoever asked may ask again.
            yield _trouble("something went wrong here; the log of the page tells what"), "", "", *idle
            raise
        finally:
            run.close()

    def cancel(request: gr.Request) -> None:
        worker.cancel(request.session_hash)

    first = samples[0] if samples else None
    with gr.Blocks(title="NTLBG-LLM", analytics_enabled=False, delete_cache=(3600, KEPT_SECONDS)) as page:
        gr.HTML(
            "<h1>Ask a long video</h1><p>NTLBG-LLM picks the few moments that represent the video for your question "
            f"and answers from those alone. {shown(about)}</p>",
            elem_id="title",
        )
        with gr.Row():
            with gr.Column(scale=6, min_width=340):
                video = gr.Video(
                    None if first is None else str(first.path),
                    label="Video",
                    sources=["upload"],
                    height=420,
                    elem_id="player",
                )
            with gr.Column(scale=5, min_width=320):
                question = gr.Textbox(
                    None if first is None else first.questions[0],
                    label="Question",
                    placeholder="What happens first: …?",
                    lines=2,
                    max_length=4000,
                    elem_id="question",
                )
                with gr.Row():
                    k = gr.Slider(1, MOST_MOMENTS, value=16, step=1, label="Moments", elem_id="moments")
                    selector = gr.Dropdown(
                        [(f"{name} (ours)" if name == "ntlbg" else name, name) for name in selectors],
                        value="ntlbg",
                        label="Chosen by",
                        elem_id="selector",
                    )
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ask")
                    stop = gr.Button("Cancel", interactive=False, elem_id="cancel")
                status = gr.HTML(HINT, elem_id="status")
        if samples:
            rows = [(sample, text) for sample in samples for text in sample.questions]
            gr.Examples(
                [[str(sample.path), text] for sample, text in rows],
                [video, question],
                example_labels=[f"Video {samples.index(sample) + 1}: {text}" for sample, text in rows],
                label="Samples",
                elem_id="samples",
            )
        timeline = gr.HTML(elem_id="timeline")
        sheet = gr.HTML(elem_id="sheet")
        outputs = [status, timeline, sheet, ask, stop]
        gr.on(
            [ask.click, question.submit],
            answer,
            [video, question, k, selector],
            outputs,
            show_progress="minimal",
            show_progress_on=status,
            concurrency_limit=MOST_VISITORS,
            api_name="ask",
        )
        # The run itself says that it was cancelled: whatever another event said might be overtaken by its last word.
        stop.click(cancel, queue=False, show_progress="hidden")
        # Marks of another video would lead nowhere.
        video.change(lambda: (HINT, "", ""), None, [status, timeline, sheet], queue=False, show_progress="hidden")
        page.unload(cancel)
    return page


def _busy(what: str, seconds: float) -> str:
    return f'<div class="busy" role="status"><i></i><span>{shown(what)} · {seconds:.0f} s</span></div>'


def _trouble(sentence: str) -> str:
    return f'<p class="trouble" role="alert">{shown(sentence[:1].upper() + sentence[1:])}.</p>'


def main(argv: list[str] | None = None) -> int:
    """Load the model, render the samples, serve the page until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TINY), help="as in `ntlbg ask` (default: the embedded ntlbg-tiny)")
    parser.add_argument("--encoder", help="as in `ntlbg ask`")
    parser.add_argument("--device", help="as in `ntlbg ask`")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer (default: 128)")
    parser.add_argument("--trust-remote-code", action="store_true", help="as in `ntlbg ask`")
    parser.add_argument("--out", type=Path, default=Path("out/app"), help="where the samples go (default: out/app)")
    args = parser.parse_args(argv)
    tiny = args.model == str(TINY)
    if tiny:
        try:
            check_tiny()
        except InputError as error:
            return _refuse(error)
    worker = ModelWorker(
        ModelSettings(args.model, args.encoder, args.device, args.max_new_tokens, args.trust_remote_code)
    )
    try:
        samples = render_samples(args.out) if tiny else []
        page = build_page(
            worker, worker.wait(), samples, ABOUT_TINY if tiny else f"The model is {Path(args.model).name}."
        )
        resources = files("ntlbg.app")
        page.queue(max_size=MOST_VISITORS).launch(
            # Fonts of the system: the page loads nothing from elsewhere.
            theme=gr.themes.Soft(primary_hue="orange", neutral_hue="slate", font=["system-ui", "sans-serif"]),
            max_file_size=LARGEST_UPLOAD,
            css=resources.joinpath("page.css").read_text(encoding="utf-8"),
            head=f"<script>{resources.joinpath('page.js').read_text(encoding='utf-8')}</script>",
            footer_links=[],
            show_error=True,
        )
    except WorkerError as error:
        return _refuse(error)
    finally:
        worker.close()
    return 0


def _refuse(error: InputError) -> int:
    print(f"ntlbg: error: {one_line(error)}", file=sys.stderr)
    return 2
