"""From a file of questions to a trained, evaluated, saved model, with the real processor, collator and trainer."""

import torch
from qa_parts import row, tiny_processor, write_rows
from tiny_models import tiny_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from ntlbg import NTLBGTrainer, NTLBGTrainingArguments
from ntlbg.data.frozen_features import FrozenFeatures
from ntlbg.data.qa_dataset import load_qa
from ntlbg.training.collator import NTLBGDataCollator
from ntlbg.training.stages import apply_stage


def test_a_file_of_questions_becomes_a_model_that_loads_and_was_scored(tmp_path):
    options = {"options": ["blue", "red"], "answer": "red", "answer_index": 1}
    path = write_rows(tmp_path, [row(0), row(1, spans=[[0, 3]]), row(2, **options), row(3, clip=[1, 6], spans=[])])
    processor = tiny_processor()
    model = tiny_model("qwen2_vl", processor.tokenizer, num_representatives=3)
    rows = load_qa(path)
    apply_stage(model, "selection")
    features = FrozenFeatures(tmp_path / "features", model, processor)
    features.prepare(rows)
    args = NTLBGTrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=2,
        predict_with_generate=True,
        report_to="tensorboard",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = NTLBGTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=NTLBGDataCollator(processor, features=features),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    first, *_, evaluated, _ = trainer.state.log_history
    assert {"loss_task", "loss_ntlbg", "loss_context", "loss_evidence"} <= first.keys()
    assert evaluated["eval_answered"] == 4
    assert 0 <= evaluated["eval_exact_match"] <= 1
    assert evaluated["eval_multiple_choice_accuracy"] in (0, 1)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    loaded = AutoModelForImageTextToText.from_pretrained(args.output_dir)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert type(AutoProcessor.from_pretrained(args.output_dir)) is type(processor)
