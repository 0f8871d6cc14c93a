"""Tiny real parts of the families with frames of one size, LLaVA-OneVision and InternVL: 32 x 32 pixels, 4 tokens."""

import transformers


FRAME_FAMILIES = ("internvl", "llava_onevision")

# What these families' tokenizers know beside Qwen's special tokens.
MARKERS = {
    "image_token": "<image>",
    "video_token": "<video>",
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
}

_TURNS = (
    "{{% for message in messages %}}{{{{ '<|im_start|>' + message['role'] + '{after}' }}}}"
    "{{% if message['content'] is string %}}{{{{ '{before}' + message['content'] }}}}"
    "{{% else %}}{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}<video>{tail}"
    "{{% else %}}{{{{ '{before}' + part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}"
    "{{{{ '<|im_end|>\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
CHAT_TEMPLATES = {
    # The placeholders first and the text on a line of its own, or each placeholder with its newline.
    "llava_onevision": _TURNS.format(after=" ", before="\n", image="<image>", tail=""),
    "internvl": _TURNS.format(after="\n", before="", image="<IMG_CONTEXT>\n", tail="\n"),
}


def frame_processor(family: str, tokenizer):
    """transformers' own processor of `family` at 32 x 32 pixels."""
    size = {"height": 32, "width": 32}
    common = {"tokenizer": tokenizer, "chat_template": CHAT_TEMPLATES[family]}
    if family == "llava_onevision":
        pinpoints = [[32, 32], [32, 64], [64, 32], [64, 64]]
        return transformers.LlavaOnevisionProcessor(
            image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
            video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            **common,
        )
    return transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size, max_patches=4),
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        **common,
    )


def frame_config(family: str, tokenizer, text: dict, tie_word_embeddings: bool):
    """A configuration of `family` around a Qwen2 language model of the sizes of `text`."""
    text = {name: value for name, value in text.items() if name != "rope_parameters"}
    text |= {"model_type": "qwen2", "tie_word_embeddings": tie_word_embeddings}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
    }
    if family == "llava_onevision":
        return transformers.LlavaOnevisionConfig(
            text_config=text,
            vision_config={
                "model_type": "siglip_vision_model",
                "image_size": 32,
                "patch_size": 8,
                "vision_use_head": False,
                **vision,
            },
            image_token_index=tokenizer.image_token_id,
            video_token_index=tokenizer.video_token_id,
            image_grid_pinpoints=[[32, 32], [32, 64], [64, 32], [64, 64]],
            tie_word_embeddings=tie_word_embeddings,
        )
    return transformers.InternVLConfig(
        text_config=text,
        vision_config={"image_size": [32, 32], "patch_size": [8, 8], "layer_scale_init_value": 1.0, **vision},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=tie_word_embeddings,
    )
