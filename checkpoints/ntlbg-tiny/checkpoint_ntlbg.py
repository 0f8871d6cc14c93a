"""Checkpoints of a model: whole, or of the selector alone with its base named; what does not fit is refused.

A released base has tens of gigabytes that training a selector never touches. A selector-only checkpoint holds what is
ours (selector, rich points, transition, statistics, heads), and names where all else is fetched from.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, GenerationConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.hub import cached_file, extract_commit_hash, get_checkpoint_shard_files

from .configuration_ntlbg import check_family
from .remote_code_ntlbg import MODEL_AUTO_MAP, is_remote_code, save_remote_code
from .requirements_ntlbg import VERSION


_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
# What `from_pretrained` of the checkpoint takes and that of the base must not get.
_NOT_FOR_BASE = ("adapter_kwargs", "code_revision", "state_dict", "trust_remote_code", "use_safetensors", "variant")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class _Fetched:
    """A part that a checkpoint may name instead of holding it, as loaded by `auto_class`."""

    what: str
    field: str
    auto_class: type

    @property
    def config(self) -> str:
        return f"{self.field}_config"

    @property
    def place(self) -> str:
        return f"{self.field}_name_or_path"


_FETCHED = {
    "vlm": _Fetched("base", "base", AutoModelForImageTextToText),
    "scorer": _Fetched("scorer", "scorer", AutoModel),
    "temporal_encoder": _Fetched("temporal encoder", "temporal", AutoModel),
}


def load_base(name, **kwargs):
    r"""
    A base model of a family that has an adapter, by Hub name or folder.

    Raises:
        ValueError: there is no adapter for its family; said before its weights are fetched.
    """
    hub = {key: kwargs[key] for key in (*_HUB_KWARGS, "revision", "subfolder") if key in kwargs}
    check_family(PreTrainedConfig.get_config_dict(name, **hub)[0].get("model_type"), f"The base {str(name)!r}")
    return AutoModelForImageTextToText.from_pretrained(name, **kwargs)


class CheckpointMixin:
    """`save_pretrained` and `from_pretrained` of [`NTLBGForConditionalGeneration`]."""

    # -- saving --------------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        *,
        selector_only: bool = False,
        base_name_or_path: str | None = None,
        **kwargs,
    ):
        r"""
        Save weights and config as transformers does, with this code flat beside them.

        Weights are saved under the model's own names. transformers would give those of the base their names in older
        releases, under which the Trainer, which takes a run up by `load_state_dict`, does not find them again.

        Args:
            selector_only (`bool`, *optional*, defaults to `False`): leave out the weights of the base, and those of a
                scorer and a temporal encoder whose names are known. They are fetched and compared first, which takes
                their size in memory: weights that were trained are never left out. (Those of quantised
                layers cannot be compared, nor trained.)
            base_name_or_path (`str`, *optional*): where the base is fetched from when such a checkpoint is loaded: a
                Hub name, `name@revision`, or a folder; by default where it came from. The commit is noted.
            kwargs: as [`~transformers.PreTrainedModel.save_pretrained`] takes them.

        Raises:
            ValueError: `selector_only`, and the base has no name, or is not what stands there.
        """
        kwargs.setdefault("save_original_format", False)
        named = {}
        if selector_only:
            state_dict = dict(self.state_dict() if state_dict is None else state_dict)
            for part, about in _FETCHED.items():
                place = self._place_of(part, base_name_or_path if part == "vlm" else None)
                if place is None:
                    continue
                left_out = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(f"{part}.")}
                module = getattr(self, part)
                # Of a whole checkpoint that is loaded quantised it is the model's, not the part's.
                quantised = any(getattr(one, "is_quantized", False) for one in (self, module))
                _check_unchanged(part, module, left_out, place, quantised)
                named[about.place] = _pinned(place)
        if not is_remote_code(type(self)):
            self.config.auto_map = dict(MODEL_AUTO_MAP)
            # The code has to be there before a push inside `super()` collects the folder.
            if is_main_process:
                Path(save_directory).mkdir(parents=True, exist_ok=True)
                save_remote_code(type(self), save_directory)
        self.config.note_fetched(named)
        # A quantised model's own way of saving takes all of its weights.
        quantizer = self.__dict__.pop("hf_quantizer", None) if selector_only else None
        try:
            return super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        finally:
            # The model itself is whole.
            self.config.note_fetched({})
            if quantizer is not None:
                self.hf_quantizer = quantizer

    def _place_of(self, part: str, given: str | None) -> str | None:
        """Where a part comes from; None where there is no such part, or one besides the base that has no name."""
        module = getattr(self, part)
        if module is None:
            return None
        place = given or module.config.name_or_path
        if not place:
            if part != "vlm":
                return None
            raise ValueError(
                "A selector-only checkpoint needs the name of its base, but this base was not loaded by one; pass "
                "`base_name_or_path=`, a Hub name (or a folder, where others have the same)."
            )
        return str(place)

    # -- loading -------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        r"""
        Load a checkpoint, whole or selector-only; arguments as in [`~transformers.PreTrainedModel.from_pretrained`].

        Of a selector-only checkpoint base and scorer are fetched from where it says, or from `base_name_or_path=`
        (`scorer_name_or_path=`); `dtype`, `device_map`, `attn_implementation` and `quantization_config` are the
        base's.

        A part that is asked for beside what the checkpoint has (`span_head=True`, `scorer_config=`) begins untrained.

        Raises:
            ValueError: weights are missing or do not fit, or the base is another one than the checkpoint was made
                for. OSError: files are not to be had.
        """
        name, said = pretrained_model_name_or_path, {}
        hub = {key: kwargs[key] for key in (*_HUB_KWARGS, "revision", "subfolder") if key in kwargs}
        place = name if config is None or isinstance(config, PreTrainedConfig) else config
        # There is none without a name, nor where adapters lie by themselves.
        if place and cached_file(place, "config.json", _raise_exceptions_for_missing_entries=False, **hub):
            said = PreTrainedConfig.get_config_dict(place, **hub)[0]
        if not isinstance(config, PreTrainedConfig) and (said | kwargs).get("base_name_or_path") is not None:
            own = set(cls.config_class.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
            fields = {key: kwargs.pop(key) for key in list(kwargs) if key in own}
            config = cls.config_class.from_pretrained(place, **hub, **fields)
        if isinstance(config, PreTrainedConfig) and config.base_name_or_path is not None:
            return cls._from_selector_only(name, copy.deepcopy(config), said, **kwargs)
        tolerant, told = kwargs.pop("ignore_mismatched_sizes", False), kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            name, *model_args, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
        )
        missing = _not_added(info["missing_keys"], said, model.config)
        _check_loaded(missing, () if tolerant else info["mismatched_keys"], name, model.config)
        return (model, info) if told else model

    @classmethod
    def _from_selector_only(cls, name, config, said: dict, **kwargs):
        told = kwargs.pop("output_loading_info", False)
        generation_config = kwargs.pop("generation_config", None)
        hub = {key: kwargs.pop(key) for key in _HUB_KWARGS if key in kwargs}
        here = {**hub, **{key: kwargs.pop(key) for key in ("revision", "subfolder") if key in kwargs}}
        weights = _read_weights(name, here)
        for key in _NOT_FOR_BASE:
            kwargs.pop(key, None)
        # Those of transformers' own, which it hands from one `from_pretrained` to the next.
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith("_")}

        parts = {}
        for part, about in _FETCHED.items():
            part_config, place = getattr(config, about.config), getattr(config, about.place)
            if part_config is not None and place is not None:
                parts[part] = _fetch(about, part_config, place, {**hub, **(kwargs if part == "vlm" else {})})
                setattr(config, about.config, parts[part].config)
        config.note_fetched({})
        # That of a base is set anew where there is one.
        config.__dict__.pop("quantization_config", None)
        config.name_or_path = str(name)
        base, fetched = parts["vlm"], tuple(f"{part}." for part in parts)
        model = cls(config, **parts)
        wanted = {key: value for key, value in model.state_dict().items() if not key.startswith(fetched)}
        unfit = [
            (key, tuple(weights[key].shape), tuple(value.shape))
            for key, value in wanted.items()
            if key in weights and weights[key].shape != value.shape
        ]
        _check_loaded(_not_added(wanted.keys() - weights.keys(), said, config), unfit, name, config)
        if foreign := sorted(key for key in weights if key.startswith(fetched)):
            raise ValueError(
                f"{str(name)!r} holds weights of the base itself, such as {foreign[0]!r}, while its base is to be "
                f"fetched from {base.config.name_or_path!r}; leave `base_name_or_path` out to load it whole."
            )
        model.load_state_dict({key: weights[key] for key in wanted.keys() & weights.keys()}, strict=False)
        model.settle()
        model.generation_config = generation_config or _generation_config(name, here) or base.generation_config
        model.eval()
        nothing = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, nothing) if told else model

    def settle(self) -> None:
        """Put what is ours beside the base: on its device, in float32; what was trained elsewhere keeps its type. Of
        a quantised base the quantisation is the model's, so that it is saved and loaded as what it is."""
        for part, module in self.named_children():
            if part not in _FETCHED:
                module.to(device=self.vlm.device, dtype=torch.float32)
            elif part != "vlm":
                module.to(self.vlm.device)
        for part, buffer in list(self.named_buffers(recurse=False)):
            setattr(self, part, buffer.to(self.vlm.device))
        self.config.dtype = self.vlm.dtype
        # A base that was built and not loaded has no such attribute.
        quantizer = getattr(self.vlm, "hf_quantizer", None)
        if quantizer is not None:
            self.hf_quantizer = quantizer
            quantizer.postprocess_model(self)


def _name_and_revision(place: str) -> tuple[str, str | None]:
    """`name@revision` in its parts; a folder may have an @ in its name."""
    if "@" not in str(place) or Path(place).exists():
        return str(place), None
    name, _, revision = str(place).rpartition("@")
    return name, revision


def _pinned(place: str) -> str:
    """The same place with the commit that it is at now."""
    name, revision = _name_and_revision(place)
    found = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    commit = extract_commit_hash(found, None) or revision
    return name if commit is None else f"{name}@{commit}"


def _fetch(about: _Fetched, config, place: str, kwargs: dict):
    """The model that a selector-only checkpoint names, as its config describes it."""
    what, auto_class = about.what, about.auto_class
    name, revision = _name_and_revision(place)
    hub = {key: kwargs[key] for key in _HUB_KWARGS if key in kwargs}
    instead = f"`{about.place}=` may name another place that has it"
    try:
        # Whoever trusts the checkpoint's code has not been asked about that of what it names.
        hub = {**hub, "trust_remote_code": False}
        found = AutoConfig.from_pretrained(name, revision=revision, **hub)
        _check_same_shapes(auto_class, what, config, found, name, instead)
        # Whether weights are quantised is up to where they are, and to who loads them.
        config = copy.deepcopy(config)
        config.__dict__.pop("quantization_config", None)
        if getattr(found, "quantization_config", None) is not None:
            config.quantization_config = found.quantization_config
        return auto_class.from_pretrained(name, config=config, revision=revision or "main", **{**kwargs, **hub})
    except OSError as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        if Path(name).is_absolute() and not Path(name).exists():
            reason = "there is no such folder"
        raise OSError(
            f"The {what} {name!r}, with which a selector-only checkpoint is loaded, cannot be fetched ({reason}); "
            f"{instead}."
        ) from error


def _check_same_shapes(auto_class, what: str, config, found, name: str, instead: str) -> None:
    """Before gigabytes are fetched: is it of the type and size that the checkpoint was made for?"""
    if found.model_type != config.model_type:
        raise ValueError(
            f"The checkpoint was made for a {what} of type {config.model_type!r}, but {name!r} is of type "
            f"{found.model_type!r}; {instead}."
        )
    if is_deepspeed_zero3_enabled():
        # It divides every model while it is made, also one without weights; loading then tells sizes that differ.
        return
    ours, theirs = _shapes(auto_class, config), _shapes(auto_class, found)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise ValueError(
                f"The checkpoint was made for another {what} than {name!r}: {key!r} is of shape {ours.get(key)} in "
                f"the one, {theirs.get(key)} in the other; {instead}."
            )


def _shapes(auto_class, config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = auto_class.from_config(copy.deepcopy(config))
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _check_unchanged(part: str, module, weights: dict, place: str, quantised: bool) -> None:
    """Weights are left out of a checkpoint only where they stand elsewhere to the bit. Of quantised layers, which
    cannot be trained, only biases are compared."""
    what, start = _FETCHED[part].what, len(part) + 1
    origin = _fetch(_FETCHED[part], module.config, place, {"dtype": "auto"}).state_dict()
    layers = _quantised_layers(_FETCHED[part].auto_class, module) if quantised else ()
    compared = [
        key
        for key in weights
        if key.endswith(".bias") or not key.startswith(tuple(f"{part}.{name}." for name in layers))
    ]
    changed = [key for key in compared if not _same(weights[key], origin.get(key[start:]))]
    if changed:
        raise ValueError(
            f"{len(changed)} of the {what}'s {len(compared)} weights differ from those of {place!r}, such as "
            f"{changed[0]!r}, so a selector-only checkpoint would lose them; save the whole model, or name the {what} "
            "they came from."
        )


def _same(value: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and torch.equal(value.detach().cpu(), other.cpu().to(value.dtype))


def _quantised_layers(auto_class, module) -> list[str]:
    """Names of the layers that a quantiser has put in the place of others, or of other classes."""
    config = copy.deepcopy(module.config)
    config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        plain = {name: type(layer) for name, layer in auto_class.from_config(config).named_modules()}
    return [
        name
        for name, layer in module.named_modules()
        if type(layer) is not plain.get(name) and next(layer.children(), None) is None
    ]


def _not_added(missing, said: dict, config) -> set[str]:
    """Missing weights but for those of parts that the caller asks for beside what the checkpoint says it has."""

    def has(part: str, fields: dict) -> bool:
        return bool(fields.get(part) or fields.get(f"{part.split('_')[0]}_config"))

    asked = config.to_dict()
    added = {part for part in {key.split(".")[0] for key in missing} if has(part, asked) and not has(part, said)}
    return {key for key in missing if key.split(".")[0] not in added}


def _check_loaded(missing, mismatched, name, config) -> None:
    by_whom = f"saved by ntlbg {config.ntlbg_version or 'before 0.1.0'}, and this is {VERSION}"
    if missing:
        raise ValueError(
            f"{str(name)!r} lacks {len(missing)} weights of this model, such as {min(missing)!r}, which would be "
            f"random numbers; it is incomplete, or of another version ({by_whom})."
        )
    if mismatched:
        key, there, here = min(mismatched)
        raise ValueError(
            f"{str(name)!r} has {len(mismatched)} weights that do not fit its config, such as {key!r} of shape "
            f"{tuple(there)} instead of {tuple(here)}; save both from the same model."
        )


def _read_weights(name, hub: dict) -> dict[str, torch.Tensor]:
    for filename in (_WEIGHTS, _INDEX):
        found = cached_file(name, filename, _raise_exceptions_for_missing_entries=False, **hub)
        if found is not None:
            files = [found] if filename == _WEIGHTS else get_checkpoint_shard_files(name, found, **hub)[0]
            return {key: value for file in files for key, value in load_file(file).items()}
    raise OSError(f"{str(name)!r} has neither {_WEIGHTS} nor {_INDEX}; save the model again, or pull it whole.")


def _generation_config(name, hub: dict) -> GenerationConfig | None:
    found = cached_file(name, "generation_config.json", _raise_exceptions_for_missing_entries=False, **hub)
    return None if found is None else GenerationConfig.from_pretrained(Path(found).parent)


__all__ = ["CheckpointMixin", "load_base"]
