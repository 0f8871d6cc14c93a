"""NTLBGTrainer: transformers' Trainer with the stages, the scheduled losses, and evaluation by answering.

Every loss is normalised over the whole accumulated batch of all processes: the task's by its answer tokens, each other
one by the videos that have it. So the gradients do not depend on how a batch is cut.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, has_length
from transformers.utils import logging

from ntlbg.evaluation.grounded_answers import GroundingScores, score_grounded
from ntlbg.grounding.tasks import read_grounded
from ntlbg.modeling_ntlbg.adapters_ntlbg import VideoFeatures
from ntlbg.training.answer_scoring import AnswerScores, score_answer
from ntlbg.training.arguments import NTLBGTrainingArguments
from ntlbg.training.collator import NTLBGDataCollator
from ntlbg.training.gradient_order import order_gradients
from ntlbg.training.log_window import LogWindow
from ntlbg.training.lora import merged_state_dict
from ntlbg.training.loss_counts import count_losses
from ntlbg.training.loss_schedule import LOSSES, loss_weights
from ntlbg.training.run_card import run_card
from ntlbg.training.skipping import SkippingCollator
from ntlbg.training.stages import OWN_PARTS, apply_stage, part_of
from ntlbg.training.whole_parts import WholeParts


logger = logging.get_logger(__name__)

# Adapters' checkpoints hold no buffers.
STATISTICS_NAME = "align_statistics.safetensors"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", STATISTICS_NAME)
_ALWAYS_REACHED = ("language_model", "embeddings")


class _FoldStatistics(TrainerCallback):
    """Once per optimizer step, before anything is logged, evaluated or saved."""

    def __init__(self, trainer: "NTLBGTrainer"):
        self._trainer = trainer

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._trainer.fold_statistics()


class NTLBGTrainer(Trainer):
    r"""
    Trains an NTLBG model in one stage.

    Args:
        model (`NTLBGForConditionalGeneration`, or a `PeftModel` of `with_lora`)
        args ([`NTLBGTrainingArguments`])
        kwargs: as [`~transformers.Trainer`] takes them; `processing_class` is the [`NTLBGProcessor`], which is saved
            with every checkpoint, `data_collator` makes the batches. With `predict_with_generate` the collator needs
            `for_generation()`, a collator whose batches have prompts without answers, and their `rows`.

    Raises:
        ValueError: the arguments or the model do not fit together; see the message.
    """

    def __init__(self, model=None, args: NTLBGTrainingArguments | None = None, **kwargs):
        if not isinstance(args, NTLBGTrainingArguments):
            raise ValueError(f"`args` should be `NTLBGTrainingArguments`, but it is a {type(args).__name__}.")
        if model is None or _inner_model(model).config.model_type != "ntlbg":
            raise ValueError(
                "`model` should be an `NTLBGForConditionalGeneration` (or a `PeftModel` of one), but it is a "
                f"{type(model).__name__}; put a selector in front of a base with `from_base`."
            )
        implementation = _inner_model(model).vlm.config.get_text_config()._attn_implementation
        if args.teacher_weight and implementation != "eager":
            raise ValueError(
                f"`teacher_weight` is {args.teacher_weight}, but the attention implementation {implementation!r} does "
                "not give the attentions it learns from; load the model with attn_implementation='eager', or set "
                "`teacher_weight` to 0."
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs, but a batch of videos cannot be cut by rows; start one process "
                "per GPU with `accelerate launch` or `torchrun`."
            )
        self.stage_summary = apply_stage(
            model, args.stage, context_weight=args.context_weight, span_weight=args.span_weight
        )
        super().__init__(model=model, args=args, **kwargs)
        self.loss_is_scaled_for_ga = True
        self._window = LogWindow()
        self._has_own_groups = False
        self._not_always_reached = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and part_of(name) not in _ALWAYS_REACHED
        ]
        self._whole_parts = WholeParts(model)
        self.add_callback(_FoldStatistics(self))

    @property
    def ntlbg_model(self):
        """The NTLBG model itself, without wrappers and adapters' shell."""
        return _inner_model(self.accelerator.unwrap_model(self.model))

    # -- training ------------------------------------------------------------------------------------------------

    def train(self, *args, **kwargs):
        """As [`~transformers.Trainer.train`]. From here on the model's relevance head is used, if it trains, and its
        second stream, if it has one."""
        model = self.ntlbg_model
        if "selector" in self.stage_summary.trained:
            model.config.selector_trained = True
        model.config.temporal_trained = model.temporal_encoder is not None
        if self.args.fade_share is not None:
            model.config.fade_share = self.args.fade_share
        model.statistics_folded_by_caller = True
        self._window = LogWindow()
        try:
            return super().train(*args, **kwargs)
        finally:
            model.statistics_folded_by_caller = False

    def _run_epoch(self, **kwargs):
        # transformers takes a step before it asks: a run that is taken up at its very end would train on.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        loader, had = kwargs["train_dataloader"], kwargs["steps_trained_in_current_epoch"]
        taken_up = kwargs["epoch"] == kwargs["epochs_trained"] and had > 0 and not self.args.ignore_data_skip
        collate = loader.collate_fn
        if taken_up and not has_length(self.train_dataset):
            # Of a table the rows are passed over by their numbers; of a stream all batches would be made.
            loader.collate_fn = SkippingCollator(collate, had)
        super()._run_epoch(**kwargs)
        loader.collate_fn = collate

    def create_optimizer(self, model=None):
        """Parts with a rate of their own (`selector_`, `merger_`, `lora_learning_rate`) are groups of their own."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        rates = self._own_rates()
        if not rates or self._has_own_groups:
            return optimizer
        if given:
            name, rate = next(iter(rates.items()))
            raise ValueError(
                f"`{name}_learning_rate` is {rate}, but the optimizer was made elsewhere (by the caller or by the "
                "DeepSpeed config); set the rates there, or take its optimizer out."
            )
        named = (self.model if model is None else model).named_parameters()
        kinds = {id(parameter): _rate_of(name.removeprefix("module.")) for name, parameter in named}
        groups = []
        for group in optimizer.param_groups:
            by_rate: dict[float, list] = {}
            for parameter in group["params"]:
                by_rate.setdefault(rates.get(kinds[id(parameter)], group["lr"]), []).append(parameter)
            groups += [{**group, "params": part, "lr": rate} for rate, part in sorted(by_rate.items())]
        optimizer.param_groups = groups
        self._has_own_groups = True
        return optimizer

    def _own_rates(self) -> dict[str, float]:
        rates = {name: getattr(self.args, f"{name}_learning_rate") for name in ("selector", "merger", "lora")}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def fold_statistics(self):
        """Fold what all processes saw in this optimizer step into L_align's expected mean and variance."""
        several = self.accelerator.num_processes > 1
        self.ntlbg_model.fold_statistics(self._sum_over_processes if several else None)

    def _sum_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values.to(self.args.device), "sum").to(values.device)

    def _sum_lists(self, values: list[float]) -> list[float]:
        if self.accelerator.num_processes == 1:
            return values
        return self._sum_over_processes(torch.tensor(values, dtype=torch.float64)).tolist()

    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss at this step: the schedule's times the argument's."""
        weights = loss_weights(self.args.loss_schedule, self.state.global_step, max(self.state.max_steps, 1))
        return {name: weight * getattr(self.args, f"{name}_weight", 1.0) for name, weight in weights.items()}

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, totals = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            self._window.begin_step(totals, self.loss_weights())
        return batches, totals

    def _get_num_items_in_batch(self, batch_samples: list, device) -> dict[str, int]:
        """Answer tokens, and videos that have each loss, in all of `batch_samples` of all processes."""
        self._check_videos(batch_samples)
        totals = [0.0] * len(LOSSES)
        for batch in batch_samples:
            batch = batch | self._shown_in_training()
            counts = count_losses(self.ntlbg_model, batch, teacher=bool(self.args.teacher_weight))
            totals = [total + counts[name] for total, name in zip(totals, LOSSES, strict=True)]
        return {name: int(total) for name, total in zip(LOSSES, self._sum_lists(totals), strict=True)}

    def _check_videos(self, batches: list):
        """DeepSpeed needs the same calls in the same order on all processes, and without a video there are fewer."""
        processes = self.accelerator.num_processes
        if not self.is_deepspeed_enabled or processes == 1:
            return
        have = torch.tensor([float(batch.get("video_grid_thw") is not None) for batch in batches])
        for count in self._sum_over_processes(have).tolist():
            if count not in (0, processes):
                raise ValueError(
                    f"A batch has a video on {int(count)} of {processes} processes, but under DeepSpeed all of them "
                    "need one, or none; mix the rows so that every batch has a video, or train without DeepSpeed."
                )

    def _shown_in_training(self) -> dict[str, int]:
        k = self.args.train_representatives
        return {} if k is None else {"num_representatives": k}

    def _prepare_input(self, data):
        # Under DeepSpeed the Trainer would cast all floats to the weights' type; seconds do not survive bfloat16.
        if isinstance(data, (torch.Tensor, VideoFeatures)):
            return data.to(self.args.device)
        return super()._prepare_input(data)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch: dict | None = None):
        """The weighted sum of the components' shares in the whole accumulated batch, times the number of processes,
        whose gradients are averaged afterwards."""
        teacher = bool(self.args.teacher_weight)
        inputs = {name: value for name, value in inputs.items() if name not in ("rows", "times")}
        if model.training:
            inputs |= self._shown_in_training()
        totals = num_items_in_batch
        if totals is None:
            totals = count_losses(self.ntlbg_model, inputs, teacher=teacher)
        self._check_features(inputs)
        self._whole_parts.gather()
        if self.is_deepspeed_enabled and model.training:
            order_gradients(self.model)
        asked = {"output_attentions": True} if teacher else {}
        outputs = model(**inputs, **asked, num_items_in_batch=max(totals["task"], 1))
        weights = self.loss_weights()
        shares = _shares(outputs, totals)
        loss = sum(weights[name] * share.to(outputs.task_loss.device) for name, share in shares.items())
        if model.training:
            self._window.add(shares, weights)
            loss = loss + self._zero()
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _check_features(self, inputs: dict):
        encoding = [part for part in ("merger", "vision_tower") if part in self.stage_summary.trained]
        if encoding and inputs.get("video_features") is not None:
            raise ValueError(
                f"The stage {self.args.stage!r} trains {' and '.join(encoding)}, but the batch has `video_features`, "
                "which were made before and never change; train without `feature_cache`, or in another stage."
            )

    def _zero(self) -> torch.Tensor:
        """Zero, with every trained parameter in its graph that a batch may not reach (one without a video, or with a
        single group kept): each process then reduces the same gradients, and none waits for ever."""
        return sum(0.0 * parameter.sum().to(self.args.device) for parameter in self._not_always_reached)

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs and self._window.steps:
            logs.update(self._window.close(self._sum_lists))
            if isinstance(self.data_collator, NTLBGDataCollator):
                logs["bad_rows"] = self._sum_lists([self.data_collator.bad_rows.bad])[0]
        super().log(logs, start_time)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Each row once: a part of the rows for each process, in order."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise ValueError("There is no `eval_dataset`; give one to the trainer or to `evaluate`.")
        return self._rows_once(dataset, self.data_collator)

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        return self._rows_once(test_dataset, self.data_collator)

    def _rows_once(self, dataset, collator) -> DataLoader:
        rows = dataset if has_length(dataset) else list(dataset)
        size, processes = self.args.per_device_eval_batch_size, self.accelerator.num_processes
        mine = range(self.accelerator.process_index, len(rows), processes)
        batches = [list(mine[start : start + size]) for start in range(0, len(mine), size)]
        self._counted_batches = len(batches)
        # All processes make the same number of steps, as a sharded model needs; what is over does not count.
        most = math.ceil(math.ceil(len(rows) / processes) / size)
        batches += [[0]] * (most - len(batches))
        return DataLoader(
            rows, batch_sampler=batches, collate_fn=collator, num_workers=self.args.dataloader_num_workers
        )

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """The losses over all rows, and, with `predict_with_generate`, the share of right answers."""
        self._eval_sums, self._eval_step = [0.0] * (2 * len(LOSSES)), 0
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        sums = self._sum_lists(self._eval_sums)
        weights, metrics, total = self.loss_weights(), {}, 0.0
        for name, value, count in zip(LOSSES, sums[: len(LOSSES)], sums[len(LOSSES) :], strict=True):
            if count:
                metrics[f"loss_{name}"] = value / count
                total += weights[name] * value / count
        metrics["loss"] = total
        if self.args.predict_with_generate:
            metrics |= self._answer_all(dataloader.dataset)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Adds a batch's losses to the evaluation's; nothing of it is gathered, as batches differ in length."""
        inputs = self._prepare_inputs(inputs)
        self._check_videos([inputs])
        counts = count_losses(self.ntlbg_model, inputs, teacher=bool(self.args.teacher_weight))
        with torch.no_grad(), self.compute_loss_context_manager():
            _, outputs = self.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=counts)
        if self._eval_step < self._counted_batches:
            for number, name in enumerate(LOSSES):
                if counts[name]:
                    self._eval_sums[number] += counts[name] * float(getattr(outputs, f"{name}_loss"))
                    self._eval_sums[len(LOSSES) + number] += counts[name]
        self._eval_step += 1
        return None, None, None

    @torch.no_grad()
    def _answer_all(self, rows) -> dict[str, float]:
        """Answer every row greedily; `unanswered` are rows the collator left out, as their video cannot be read."""
        loader = self._rows_once(rows, self.data_collator.for_generation())
        model, scores, grounded, seen = self.ntlbg_model, AnswerScores(), GroundingScores(), set()
        self._whole_parts.gather()
        for step, batch in enumerate(loader):
            answered = batch.pop("rows")
            times = batch.pop("times", [None] * len(answered))
            batch = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                sequences = model.generate(
                    **batch, do_sample=False, max_new_tokens=self.args.generation_max_new_tokens
                )
            texts = self.processing_class.batch_decode(
                sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
            )
            if step < self._counted_batches:
                for row, text, of_row in zip(answered, texts, times, strict=True):
                    # Where no row of a batch can be read, the collator gives an earlier one again.
                    key = (row["id"], row["video_id"], row["question"])
                    if key in seen:
                        continue
                    seen.add(key)
                    if of_row is None:
                        scores += score_answer(text, row)
                        continue
                    task = self.data_collator.grounding.task_of(row)
                    when, what = score_grounded(task, read_grounded(task, text, of_row)[0], row)
                    grounded, scores = grounded + when, scores + what
        answered = self._sum_lists([float(len(seen))])[0]
        metrics = AnswerScores(*(int(value) for value in self._sum_lists(scores.sums()))).metrics()
        metrics |= GroundingScores.of_sums(self._sum_lists(grounded.sums())).metrics()
        metrics |= {"answered": int(answered), "unanswered": len(loader.dataset) - int(answered)}
        return metrics

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _save(self, output_dir=None, state_dict=None):
        """A checkpoint of a model with adapters holds these, to go on from; the run's own folder the whole model with
        the adapters added in, which loads anywhere."""
        folder = Path(output_dir or self.args.output_dir)
        super()._save(str(folder), state_dict)
        if self.model is self.ntlbg_model or not self.args.should_save:
            return
        if folder == Path(self.args.output_dir):
            try:
                merged = merged_state_dict(self.model)
            except ValueError as error:
                logger.warning(f"Only the adapters were saved. {error}")
            else:
                self.ntlbg_model.save_pretrained(folder, state_dict=merged)
                for name in ADAPTER_FILES:
                    (folder / name).unlink(missing_ok=True)
                return
        statistics = {name: getattr(self.ntlbg_model, name).cpu() for name in ("expected_mean", "expected_variance")}
        save_file(statistics, folder / STATISTICS_NAME)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        # What comes next, the Trainer's state, says that all is written: also what the other processes write.
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_statistics(resume_from_checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        self._load_statistics(self.state.best_model_checkpoint)

    def _load_statistics(self, folder):
        path = Path(folder) / STATISTICS_NAME
        if path.is_file():
            for name, value in load_file(path).items():
                getattr(self.ntlbg_model, name).copy_(value)

    def create_model_card(self, model_name: str | None = None, tags=None, dataset=None, **kwargs):
        """Write README.md: what was trained, on what and how, and what this run measured, and nothing else."""
        if self.is_world_process_zero():
            tags, datasets = ([names] if isinstance(names, str) else list(names or ()) for names in (tags, dataset))
            pushed = self.args.hub_model_id if self.args.push_to_hub else None
            card = run_card(self, model_name or pushed or Path(self.args.output_dir).name, tags, datasets)
            (Path(self.args.output_dir) / "README.md").write_text(card, encoding="utf-8")


def _inner_model(model):
    """The model inside a `PeftModel`, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _rate_of(name: str) -> str | None:
    """Which of the rates of their own a parameter has, if any."""
    part = part_of(name)
    return "lora" if ".lora_" in name else "selector" if part in OWN_PARTS else part


def _shares(outputs, totals: dict[str, int]) -> dict[str, torch.Tensor]:
    """What this micro-batch adds to each component of the whole accumulated batch."""
    shares = {"task": outputs.task_loss}
    for name in LOSSES[1:]:
        parts = [losses[name] for losses in outputs.video_losses or () if name in losses]
        if parts:
            shares[name] = torch.stack(parts).sum() / totals[name]
    return shares


__all__ = ["ADAPTER_FILES", "STATISTICS_NAME", "NTLBGTrainer"]
