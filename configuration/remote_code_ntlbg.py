"""Flatten on save: put this code beside a checkpoint, so that it loads where the project is not installed.

transformers' own `custom_object_save` copies one module and its relative imports, which must lie in one folder; our
code lies in three packages. So the modules reachable from the auto classes are copied flat, with their imports of each
other made relative.
"""

import ast
import inspect
import re
import sys
from pathlib import Path


# Auto class -> "module.Class", as transformers looks them up.
CONFIG_AUTO_MAP = {"AutoConfig": "configuration_ntlbg.NTLBGConfig"}
MODEL_AUTO_MAP = {
    **CONFIG_AUTO_MAP,
    "AutoModel": "modeling_ntlbg.NTLBGForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_ntlbg.NTLBGForConditionalGeneration",
    # What the pipeline "any-to-any" asks for.
    "AutoModelForMultimodalLM": "modeling_ntlbg.NTLBGForConditionalGeneration",
}
VIDEO_PROCESSOR_AUTO_MAP = {"AutoVideoProcessor": "video_processing_ntlbg.NTLBGVideoProcessor"}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_ntlbg.NTLBGProcessor", **VIDEO_PROCESSOR_AUTO_MAP}

# The files that transformers asks for by themselves.
_ENTRIES = {place.split(".")[0] for place in (*MODEL_AUTO_MAP.values(), *PROCESSOR_AUTO_MAP.values())}
# Of a local folder transformers 4 copies only what the file it asks for names itself; without the rest it would speak
# of a missing file, and not say that it is too old.
_NEVER_RUN = """

# All that this file needs, for transformers 4, which reads no further than here; never run.
if False:
"""
_TRAVELLING = re.compile(r"^ntlbg\.(configuration|modeling_ntlbg|processors)\.(\w+)$")


def is_remote_code(cls: type) -> bool:
    """Whether the class was loaded by transformers from a checkpoint's own code, which stock saving copies rightly."""
    return cls.__module__.startswith("transformers_modules")


def register(cls: type, *auto_classes, key=None) -> None:
    """Tell transformers' auto classes that `cls` is the class for NTLBG, unless it is a checkpoint's own copy of it.

    An installed project then uses its own code and is never asked whether a checkpoint's code may run.

    Args:
        auto_classes: with a `register(key, cls, exist_ok=True)`.
        key: what they file it under.
    """
    if not is_remote_code(cls):
        for auto_class in auto_classes:
            auto_class.register(key, cls, exist_ok=True)


def _flatten(source: str) -> tuple[str, set[str]]:
    """Source with its travelling imports made relative, and the dotted names of the modules it needs."""
    lines, needed = source.splitlines(keepends=True), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (match := _TRAVELLING.match(node.module or "")):
            needed.add(node.module)
            line = node.lineno - 1
            lines[line] = lines[line].replace(f"from {node.module} import", f"from .{match[2]} import", 1)
    return "".join(lines), needed


def _all_needed(name: str, needs: dict[str, set[str]]) -> list[str]:
    """The files that `name` needs, and those that they need, without itself; sorted."""
    found, pending = set(), [name]
    while pending:
        new = needs[pending.pop()] - found
        found |= new
        pending.extend(new)
    return sorted(found - {name})


def save_remote_code(cls: type, save_directory) -> list[str]:
    r"""
    Write the modules reachable from `cls` flat into a folder.

    Args:
        cls (`type`): one of our auto classes, imported from the project itself.
        save_directory (`str` or `os.PathLike`): where the checkpoint lies.

    Returns:
        `list[str]`: names of the files written, sorted.
    """
    folder = Path(save_directory)
    pending, written, needs = [cls.__module__], {}, {}
    while pending:
        module = pending.pop()
        name = module.rsplit(".", 1)[-1]
        if name in written:
            continue
        written[name], needed = _flatten(inspect.getsource(sys.modules[module]))
        needs[name] = {one.rsplit(".", 1)[-1] for one in needed}
        pending.extend(needed)
    for name, source in written.items():
        if name in _ENTRIES:
            source += _NEVER_RUN + "".join(f"    from .{one} import __name__\n" for one in _all_needed(name, needs))
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return sorted(f"{name}.py" for name in written)


__all__ = [
    "CONFIG_AUTO_MAP",
    "MODEL_AUTO_MAP",
    "PROCESSOR_AUTO_MAP",
    "VIDEO_PROCESSOR_AUTO_MAP",
    "is_remote_code",
    "register",
    "save_remote_code",
]
