"""What the configuration accepts, and what it says when it does not."""

import pytest
import transformers

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig


def test_it_survives_saving_with_its_sub_configs(tmp_path):
    config = NTLBGConfig(
        base_config=transformers.Qwen2_5_VLConfig(), scorer_config=transformers.SiglipConfig(), num_representatives=7
    )
    config.save_pretrained(tmp_path)
    loaded = NTLBGConfig.from_pretrained(tmp_path)
    assert loaded.num_representatives == 7
    assert loaded.base_config.model_type == "qwen2_5_vl"
    assert loaded.scorer_config.model_type == "siglip"
    assert loaded.hidden_size == config.base_config.text_config.hidden_size
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is NTLBGConfig


def test_the_default_base_is_qwen2_vl_without_a_scorer():
    config = NTLBGConfig()
    assert config.base_config.model_type == "qwen2_vl"
    assert config.scorer_config is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_representatives", 0),
        ("max_visual_tokens", 0),
        ("candidate_fps", 0.0),
        ("candidate_fps", float("nan")),
        ("max_candidates", 1),
        ("covariance_rank", 0),
        ("relevance_share", 1.5),
        ("novelty_share", -0.1),
        ("time_weight", -1.0),
        ("lbg_iterations", 0),
        ("selector_size", 6),
        ("query_slots", 0),
        ("context_size", 3),
        ("context_window", 4),
        ("time_frequencies", 0),
        ("vision_chunk_groups", 0),
        ("ntlbg_weight", -1.0),
        ("likelihood_weight", 0.0),
        ("initializer_range", 0.0),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(field, value):
    with pytest.raises(ValueError, match=rf"`{field}` should be .* but it is"):
        NTLBGConfig(**{field: value})


@pytest.mark.parametrize(("field", "value"), [("num_representatives", 8.5), ("selector_trained", "yes")])
def test_a_value_of_the_wrong_type_is_named_in_one_sentence(field, value):
    with pytest.raises(ValueError, match=rf"'{field}'.*expected") as caught:
        NTLBGConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_the_models_keep_the_attention_they_were_made_with():
    base = transformers.Qwen2VLConfig(attn_implementation="sdpa")
    scorer = transformers.SiglipConfig(attn_implementation="eager")
    config = NTLBGConfig(base_config=base, scorer_config=scorer)
    assert config.base_config._attn_implementation == "sdpa"
    assert config.scorer_config._attn_implementation == "eager"
