"""Features kept of a frozen tower: the same losses and gradients, no video opened, nothing stale, nothing torn."""

import copy
import importlib.util
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from family_parts import ALL_FAMILIES
from qa_parts import row, tiny_processor, video_bytes, write_rows
from tiny_models import tiny_model
from torch.utils.data import DataLoader

from ntlbg import fingerprints
from ntlbg.data import video_entries
from ntlbg.data.frozen_features import FrozenFeatures, Prepared
from ntlbg.data.qa_dataset import load_qa
from ntlbg.data.qa_records import TooManyBadRows
from ntlbg.errors import InputError
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.training.collator import NTLBGDataCollator


ROWS = [row(0), row(1, spans=[[0, 3]]), row(2), row(3, clip=[1, 6])]


@pytest.fixture(params=ALL_FAMILIES)
def family(request):
    return request.param


def frozen_model(family, processor, seed=0):
    model = tiny_model(family, processor.tokenizer, seed=seed, selector_trained=True)
    model.adapter.tower.requires_grad_(False)
    model.expected_mean.fill_(0.1)  # as after a step of training: L_align has something to compare with
    return model


def parts(family="qwen2_vl", **sampling):
    processor = tiny_processor(family)
    for name, value in sampling.items():
        setattr(processor.video_processor, name, value)
    return frozen_model(family, processor), processor


def entries(folder: Path) -> dict[str, int]:
    """Names and inodes: every write makes a new inode."""
    return {path.name: path.stat().st_ino for path in folder.glob("*/*.safetensors")}


def losses_and_gradients(model, batch):
    batch = {name: value for name, value in batch.items() if name != "group_evidence"}
    # A step of training moves the running statistics of the tokens.
    model = copy.deepcopy(model).train()
    torch.manual_seed(7)
    output = model(**batch, num_representatives=3)
    output.loss.backward()
    losses = [output.loss, output.task_loss, output.ntlbg_loss, output.align_loss, output.context_loss]
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return [loss.item() for loss in losses], gradients


def test_losses_and_gradients_from_kept_features_are_those_from_the_video(family, tmp_path):
    data = load_qa(write_rows(tmp_path, ROWS))
    model, processor = parts(family)
    if family == "qwen3_vl":
        # One budget for the whole video: a single group alone would be enlarged to its lower end.
        processor.video_processor.base.size["shortest_edge"] = 20 * 32**2
    features = FrozenFeatures(tmp_path / "features", model, processor)
    assert features.prepare(data, progress=False) == Prepared(made=3, kept=0, bad=[])
    assert features.prepare(data, progress=False) == Prepared(made=0, kept=3, bad=[])
    rows = [data[index] for index in range(len(data))]
    cached = NTLBGDataCollator(processor, features=features)(rows)
    decoded = NTLBGDataCollator(processor)(rows)
    assert set(cached) == (set(decoded) - {"pixel_values_videos"}) | {"video_features"}
    for name in set(cached) & set(decoded):
        assert torch.equal(torch.nan_to_num(cached[name]), torch.nan_to_num(decoded[name])), name
    losses, gradients = losses_and_gradients(model, cached)
    expected_losses, expected = losses_and_gradients(model, decoded)
    assert losses == pytest.approx(expected_losses, abs=1e-6)
    assert set(gradients) == set(expected)
    assert any(value.any() for name, value in gradients.items() if name.startswith("vlm."))
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[name], atol=1e-6, rtol=0), name


def test_no_video_is_opened_after_the_pass_also_not_by_workers(family, tmp_path):
    data = load_qa(write_rows(tmp_path, ROWS))
    model, processor = parts(family)
    features = FrozenFeatures(tmp_path / "features", model, processor)
    features.prepare(data, progress=False)
    for video in tmp_path.glob("*.mp4"):
        video.unlink()
    collator = NTLBGDataCollator(processor, features=features)
    # As for workers that are spawned, without the model.
    spawned = pickle.dumps((data, collator))
    assert len(spawned) < sum(weight.numel() for weight in model.parameters())
    data_there, collator_there = pickle.loads(spawned)
    assert torch.equal(collator_there([data_there[0]])["input_ids"], collator([data[0]])["input_ids"])
    loader = DataLoader(data, batch_size=2, num_workers=1, collate_fn=collator, persistent_workers=True)
    for _ in range(2):
        assert [len(batch["video_features"]) for batch in loader] == [2, 2]
    assert collator.bad_rows.bad == 0
    ask = collator.for_generation()([data[0], data[1]])
    assert len(ask.pop("rows")) == 2
    assert model.generate(**ask, num_representatives=2, max_new_tokens=2).shape[0] == 2


def test_features_are_kept_in_the_towers_own_type(tmp_path):
    data = load_qa(write_rows(tmp_path, ROWS[:1]))
    model, processor = parts("qwen3_vl")
    model.vlm.to(torch.bfloat16)
    features = FrozenFeatures(tmp_path / "features", model, processor)
    features.prepare(data, progress=False)
    (kept,) = NTLBGDataCollator(processor, features=features)([data[0]])["video_features"]
    assert {kept.tokens.dtype, *(layer.dtype for layer in kept.deepstack)} == {torch.bfloat16}
    assert len(kept.deepstack) == 2


@pytest.mark.parametrize("part", ["patch_embed", "merger"])
def test_a_tower_that_is_to_be_trained_is_refused(part, tmp_path):
    model, processor = parts()
    getattr(model.vlm.model.visual, part).requires_grad_(True)
    with pytest.raises(InputError, match="parameters of the vision tower are to be trained"):
        FrozenFeatures(tmp_path, model, processor)


def test_a_stream_is_refused_in_one_sentence(tmp_path):
    stream = load_qa(write_rows(tmp_path, ROWS), streaming=True)
    with pytest.raises(InputError, match="load the data without streaming"):
        FrozenFeatures(tmp_path / "features", *parts()).prepare(stream, progress=False)


# -- names -----------------------------------------------------------------------------------------------------------


def test_whatever_decides_the_features_makes_others(tmp_path):
    def fingerprint(**sampling):
        return FrozenFeatures(tmp_path, *parts(**sampling)).fingerprint

    model, processor = parts()
    names = {"as it is": fingerprint(), "fewer": fingerprint(max_candidates=8), "slower": fingerprint(candidate_fps=1)}
    names["smaller"] = fingerprint(max_side=40)
    processor.video_processor.base.size = {"shortest_edge": 784, "longest_edge": 1568}
    names["smaller for the tower"] = FrozenFeatures(tmp_path, model, processor).fingerprint
    with torch.autocast("cpu", torch.bfloat16):
        names["autocast"] = fingerprint()
    model, processor = parts()
    with torch.no_grad():
        next(model.vlm.model.visual.parameters()).view(-1)[0] += 1e-3
    names["another weight"] = FrozenFeatures(tmp_path, model, processor).fingerprint
    names["another family"] = fingerprint(family="qwen2_5_vl")
    assert len(set(names.values())) == len(names)
    model, processor = parts()
    with torch.no_grad():
        model.selector.kappa += 1
    assert FrozenFeatures(tmp_path, model, processor).fingerprint == names["as it is"]
    # The next stage starts from what was saved.
    model.save_pretrained(tmp_path / "saved")
    saved = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "saved")
    saved.requires_grad_(False)
    assert FrozenFeatures(tmp_path, saved, processor).fingerprint == names["as it is"]


def test_a_change_of_any_code_that_a_video_runs_through_makes_others(tmp_path, monkeypatch):
    for name, text in {"a": "from ntlbg.b import x\n", "b": "    from ntlbg.c import y\n", "c": "y = 1\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)

    def found(name):
        return importlib.util.spec_from_file_location(name, tmp_path / f"{name.removeprefix('ntlbg.')}.py")

    monkeypatch.setattr(fingerprints, "find_spec", found)
    before = fingerprints.code_digest("ntlbg.a")
    assert before == fingerprints.code_digest("ntlbg.b", "ntlbg.a")
    (tmp_path / "c.py").write_text("y = 2\n")
    assert fingerprints.code_digest("ntlbg.a") != before


def test_a_copy_of_a_video_hits_and_another_video_under_its_name_does_not(tmp_path):
    path = write_rows(tmp_path, [row(0), row(1, video_path="copy.mp4"), row(2, video_path="other.mp4")])
    shutil.copy(tmp_path / "v0.mp4", tmp_path / "copy.mp4")
    (tmp_path / "other.mp4").write_bytes(video_bytes(5))
    model, processor = parts()
    first = FrozenFeatures(tmp_path / "features", model, processor).prepare(load_qa(path), progress=False)
    assert (first.made, first.kept) == (2, 1)
    (tmp_path / "copy.mp4").write_bytes(video_bytes(6))
    again = FrozenFeatures(tmp_path / "features", model, processor).prepare(load_qa(path), progress=False)
    assert (again.made, again.kept) == (1, 2)


def test_videos_of_the_data_set_itself_are_kept_by_their_bytes(tmp_path):
    data = load_qa([{**row(number), "video": {"bytes": video_bytes(number % 2)}} for number in range(3)])
    model, processor = parts()
    features = FrozenFeatures(tmp_path, model, processor)
    assert features.prepare(data, progress=False).made == 2
    assert len(NTLBGDataCollator(processor, features=features)([data[0], data[2]])["video_features"]) == 2


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_video_that_cannot_be_used_is_told_and_stops_the_run_beyond_the_share(tmp_path, caplog):
    path = write_rows(tmp_path, [row(0), row(1), row(2, video_path="broken.mp4"), row(4, video_path="broken.mp4")])
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    data = load_qa(path)
    model, processor = parts()
    features = FrozenFeatures(tmp_path / "features", model, processor)
    with pytest.raises(TooManyBadRows, match=r"2 of 4 rows have a video that cannot be used.*broken\.mp4"):
        features.prepare(data, progress=False, max_bad_share=0.25)
    prepared = features.prepare(data, progress=False, max_bad_share=0.5)
    assert (prepared.made, prepared.kept, len(prepared.bad)) == (0, 2, 1)
    assert "broken.mp4" in caplog.text
    collator = NTLBGDataCollator(processor, features=features, max_bad_share=0.01)
    assert len(collator([data[0], data[2]])["video_features"]) == 1
    assert collator.bad_rows.bad == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "another", "link"])
def test_a_damaged_entry_is_never_used_and_made_again_at_the_next_start(damage, tmp_path):
    data = load_qa(write_rows(tmp_path, ROWS[:2]))
    model, processor = parts()
    folder = tmp_path / "features"
    features = FrozenFeatures(folder, model, processor)
    features.prepare(data, progress=False)
    path = features._entry(features._key(data[0]))
    other = features._entry(features._key(data[1]))
    whole = path.read_bytes()
    if damage == "link":
        path.unlink()
        path.symlink_to(other)
    else:
        flipped = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
        path.write_bytes({"flip": flipped, "cut": whole[:-9], "empty": b"", "another": other.read_bytes()}[damage])
    collator = NTLBGDataCollator(processor, features=features, max_bad_share=0.01)
    assert len(collator([data[0], data[1]])["video_features"]) == 1
    assert collator.bad_rows.bad == 1
    assert features.prepare(data, progress=False).made == 1
    assert len(collator([data[0], data[1]])["video_features"]) == 2
    assert path.read_bytes() == whole


def test_a_video_the_pass_has_not_seen_is_a_bad_row(tmp_path):
    data = load_qa(write_rows(tmp_path, ROWS[:2]))
    model, processor = parts()
    collator = NTLBGDataCollator(processor, features=FrozenFeatures(tmp_path / "features", model, processor))
    with pytest.raises(TooManyBadRows, match="call `prepare` with the rows of this run"):
        collator([data[0]])


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    data = load_qa(write_rows(tmp_path, ROWS[:1]))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        FrozenFeatures(tmp_path / "file", *parts())
    with pytest.raises(InputError, match="features cannot be kept in"):
        FrozenFeatures(tmp_path / "file" / "features", *parts()).prepare(data, progress=False)


# -- processes -------------------------------------------------------------------------------------------------------


def test_workers_that_decode_give_the_same_entries(tmp_path):
    path = write_rows(tmp_path, [*ROWS, row(4, video_path="broken.mp4")])
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    model, processor = parts()
    for folder, workers in (("alone", 0), ("helped", 2)):
        features = FrozenFeatures(tmp_path / folder, model, processor)
        prepared = features.prepare(load_qa(path), workers=workers, max_bad_share=0.5, progress=False)
        assert (prepared.made, len(prepared.bad)) == (3, 1)
    alone, helped = (
        {file.name: file.read_bytes() for file in (tmp_path / folder).glob("*/*.safetensors")}
        for folder in ("alone", "helped")
    )
    assert alone == helped


def _prepare_share(folder, path, rank, world_size, results):
    torch.set_num_threads(1)
    prepared = FrozenFeatures(folder, *parts()).prepare(
        load_qa(path), rank=rank, world_size=world_size, progress=False
    )
    results.put((rank, prepared.made, prepared.made + prepared.kept))


def test_processes_share_the_pass_and_each_ends_with_everything_there(tmp_path):
    rows = [row(number, video_path=f"{number}.mp4", clip=[0, 4]) for number in range(6)]
    path = write_rows(tmp_path, rows)
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(video_bytes(number))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [
        context.Process(target=_prepare_share, args=(tmp_path / "features", path, rank, 2, results))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    told = sorted(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    assert [total for _, _, total in told] == [6, 6]
    assert all(made for _, made, _ in told)
    assert len(entries(tmp_path / "features")) == 6
    assert not list((tmp_path / "features").rglob("*.part"))


def _prepare_and_die(folder, path):
    written = []

    def save_and_die(tensors, part, metadata, save=video_entries.save_file):
        save(tensors, part, metadata)
        written.append(part)
        if len(written) == 2:
            os.truncate(part, 100)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    video_entries.save_file = save_and_die
    FrozenFeatures(folder, *parts()).prepare(load_qa(path), progress=False)


def test_a_pass_that_was_killed_in_a_write_is_taken_up_again(tmp_path):
    path = write_rows(tmp_path, ROWS)
    folder = tmp_path / "features"
    killed = multiprocessing.get_context("fork").Process(target=_prepare_and_die, args=(folder, path))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    before = entries(folder)
    assert len(before) == 1
    (part,) = folder.glob("*/*.part")
    os.utime(part, (0, 0))
    prepared = FrozenFeatures(folder, *parts()).prepare(load_qa(path), progress=False)
    assert (prepared.made, prepared.kept) == (2, 1)
    after = entries(folder)
    assert len(after) == 3
    assert before.items() <= after.items()
    assert not part.exists()
