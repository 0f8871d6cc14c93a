"""Time tokens in real model classes: new rows at the mean, old ones untouched, only the new ones learn."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_base, tiny_model
from tiny_parts import tiny_tokenizer

from ntlbg.grounding.time_formats import TokenFormat
from ntlbg.grounding.time_tokens import add_time_tokens, time_tokens, trainable_rows


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def tied(request):
    return request.param


def weights(model) -> dict[str, torch.Tensor]:
    return {
        "in": model.get_input_embeddings().weight.detach().clone(),
        "out": model.get_output_embeddings().weight.detach().clone(),
    }


def test_new_rows_are_the_mean_of_the_old_and_the_old_stay(tied):
    tokenizer = tiny_tokenizer()
    model = tiny_base("qwen2_vl", tokenizer, tie_word_embeddings=tied)
    old, size = weights(model), len(tokenizer)
    ids = add_time_tokens(model, tokenizer)
    assert ids == list(range(size, size + 302))
    assert tokenizer.convert_ids_to_tokens(ids) == time_tokens()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert model.config.get_text_config().vocab_size == size + 302
    for name, weight in weights(model).items():
        assert torch.equal(weight[:size], old[name])
        assert torch.allclose(weight[ids], old[name].mean(dim=0).expand(302, -1))
    again = weights(model)
    assert add_time_tokens(model, tokenizer) == ids
    assert torch.equal(weights(model)["in"], again["in"])


def test_embeddings_larger_than_the_tokenizer_are_not_shrunk_and_padding_rows_do_not_count():
    tokenizer = tiny_tokenizer()
    model = tiny_base("qwen2_vl", tokenizer)
    size = len(tokenizer)
    model.resize_token_embeddings(size + 1000, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[size:] = 1e3
    expected = model.get_input_embeddings().weight[:size].mean(dim=0)
    ids = add_time_tokens(model, tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == size + 1000
    assert torch.allclose(model.get_input_embeddings().weight[ids[7]], expected)


def test_a_time_is_one_token_and_survives_the_decoding_of_answers(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_model("qwen2_vl", tokenizer)
    ids = add_time_tokens(model, tokenizer)
    times = TokenFormat(60.0)
    answer = times.encode_span(2.0, 4.0)
    encoded = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert encoded == [ids[10], ids[20]]
    assert times.parse_span(tokenizer.decode(encoded, skip_special_tokens=True)) == (2.0, 4.0)
    # the NTLBG model is saved with them and comes back
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert again.get_output_embeddings().weight.shape[0] == len(tokenizer)


def test_only_the_new_rows_learn(tied):
    tokenizer = tiny_tokenizer()
    model = tiny_base("qwen2_vl", tokenizer, tie_word_embeddings=tied)
    ids = add_time_tokens(model, tokenizer)
    old = {name: value.clone() for name, value in model.state_dict().items()}
    rows = trainable_rows(model, ids)
    assert len(rows) == (1 if tied else 2)
    config = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", trainable_token_indices=rows)
    adapted = get_peft_model(model, config).train()
    prompt = tokenizer("when does it move?<3><7>", return_tensors="pt", add_special_tokens=False)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(**prompt, labels=prompt["input_ids"]).loss.backward()
        optimizer.step()
    merged = adapted.merge_and_unload().state_dict()
    changed = {name for name in old if not torch.equal(merged[name], old[name])}
    embeddings = {name for name in changed if "embed_tokens" in name or "lm_head" in name}
    assert len(embeddings) == 2
    assert all("q_proj" in name for name in changed - embeddings)
    for name in embeddings:
        moved = (merged[name] != old[name]).any(dim=1).nonzero().flatten().tolist()
        assert moved
        assert set(moved) <= set(ids)
        assert {ids[3], ids[7]} <= set(moved)


def test_a_special_token_of_that_name_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<3>"], special_tokens=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<3>"]})
    with pytest.raises(ValueError, match="'<3>' is a special token"):
        add_time_tokens(tiny_base("qwen2_vl", tokenizer), tokenizer)
