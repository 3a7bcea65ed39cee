"""Files that belong to a model, were wrapped by a trainer, or cannot work: each is named."""

import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.unit.test_web_rwkv import web_rwkv
from wkv.checkpoint.layouts import FLA7, foreign_tensors
from wkv.checkpoint.open import open_checkpoint
from wkv.errors import CheckpointError
from wkv.inference.describe import describe

IDS = [5, 250, 17, 3, 99]


@pytest.fixture(scope="module")
def tensors():
    return random_checkpoint("7")


def saved(tmp_path, tensors, name="m.pth"):
    save_pth(tensors, tmp_path / name)
    return tmp_path / name


PREFIXES = (
    "module.", "_orig_mod.", "model.", "_forward_module.", "base_model.model.", "module._orig_mod.",
    "_orig_mod.module.", "base_model.model.model.", "_fsdp_wrapped_module.", "_orig_mod.model.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_trainers_are_removed(tmp_path, tensors, prefix):
    plain = wkv.load(saved(tmp_path, tensors))
    wrapped = wkv.load(saved(tmp_path, {prefix + name: t for name, t in tensors.items()}, "w.pth"))
    assert torch.equal(plain.forward(IDS)[0], wrapped.forward(IDS)[0])
    assert plain.identity == wrapped.identity


def test_wrappers_of_single_blocks_are_removed(tmp_path, tensors):
    names = {name: name.replace("blocks.1.", "blocks.1._orig_mod.") for name in tensors}
    names["head.weight"] = "_orig_mod.head.weight"
    wrapped = saved(tmp_path, {names[name]: tensor for name, tensor in tensors.items()})
    assert describe(wrapped).config.n_layer == 3


def test_a_file_with_two_copies_of_a_tensor_is_refused(tmp_path, tensors):
    both = tensors | {"module.emb.weight": tensors["emb.weight"]}
    with pytest.raises(wkv.CheckpointError, match=r"module\.emb\.weight are both the tensor"):
        describe(saved(tmp_path, both))


def test_merged_models_of_peft_in_the_layout_of_fla_are_read(tmp_path, tensors):
    kept = {name: t for name, t in tensors.items() if not name.startswith("blocks.0.att.v")}
    kept["blocks.0.att.value.weight"] = tensors["blocks.0.att.value.weight"]
    foreign = foreign_tensors(kept, FLA7)
    path = saved(tmp_path, {f"base_model.model.{name}": t for name, t in foreign.items()})
    plain = wkv.load(saved(tmp_path, tensors, "plain.pth"))
    assert torch.allclose(wkv.load(path).forward(IDS)[0], plain.forward(IDS)[0], atol=1e-4)


KEY = "blocks.0.att.key"
ADAPTERS = (
    f"{KEY}.lora_A", f"base_model.model.{KEY}.lora_A.weight", f"{KEY}.lora.0", f"{KEY}.lora_a",
    f"{KEY}.lora_B.default.weight", f"{KEY}.lora_magnitude_vector", f"{KEY}.bone", f"{KEY}.disha",
    "base_model.model.model.layers.0.attn.r_proj.lora_A.weight", "blocks.0.ffn.key.lora.1",
)  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_adapters_are_named(tmp_path, name, ending):
    path = tmp_path / f"adapter{ending}"
    content = {name: torch.zeros(4, 8), "blocks.0.ln1.weight": torch.zeros(8)}
    save_pth(content, path) if ending == ".pth" else save_file(content, path)
    with pytest.raises(wkv.CheckpointError, match=r"an adapter \(LoRA\), not a whole model"):
        describe(path)


def test_models_whose_adapter_is_not_merged_are_named(tmp_path, tensors):
    wrapped = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    for block in range(3):
        name = f"base_model.model.blocks.{block}.att.key."
        wrapped[f"{name}base_layer.weight"] = wrapped.pop(f"{name}weight")
        wrapped[f"{name}lora_A.default.weight"] = torch.zeros(4, 128)
    with pytest.raises(wkv.CheckpointError, match="an adapter"):
        describe(saved(tmp_path, wrapped))


def test_tuned_and_saved_states_are_named(tmp_path, tensors):
    tuned = {f"blocks.{block}.att.time_state": torch.zeros(4, 32, 32) for block in range(3)}
    with pytest.raises(wkv.CheckpointError, match="a tuned state, not a model"):
        describe(saved(tmp_path, tuned))
    save_file(tuned, tmp_path / "t.state")
    with pytest.raises(wkv.CheckpointError, match="a tuned state, not a model"):
        describe(tmp_path / "t.state")
    wkv.load().forward([1])[1].save(tmp_path / "s.safetensors")
    with pytest.raises(wkv.CheckpointError, match="a saved state of wkv, not a model"):
        describe(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    "name", ["rosa1.emb0", "emb_rosa.emb.weight", "rosa_qkv.emb", "blocks.0.rosa.q.weight"]
)
def test_rwkv_8_is_named(tmp_path, tensors, name):
    for content in ({"e.weight": torch.zeros(3, 4)}, tensors):
        with pytest.raises(wkv.CheckpointError, match=r"RWKV-8 \(ROSA\)"):
            describe(saved(tmp_path, content | {name: torch.zeros(4)}))


@pytest.mark.parametrize("block", [3, 7, 31])
@pytest.mark.parametrize("part", ["att.key.weight", "ffn.value.lora_B", "ln1.bias"])
def test_a_stray_block_is_named(tmp_path, tensors, block, part):
    stray = f"blocks.{block}.{part}"
    with pytest.raises(wkv.CheckpointError) as error:
        describe(saved(tmp_path, tensors | {stray: torch.zeros(128)}))
    assert stray in str(error.value)
    assert "missing: " not in str(error.value)


def test_one_missing_tensor_of_a_block_is_still_named(tmp_path, tensors):
    rest = {name: t for name, t in tensors.items() if name != "blocks.2.att.key.weight"}
    with pytest.raises(wkv.CheckpointError, match=r"missing: blocks\.2\.att\.key\.weight;"):
        describe(saved(tmp_path, rest))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["emb.weight", "blocks.1.att.key.weight", "head.weight"])
def test_matrices_that_begin_with_nan_are_refused(tmp_path, tensors, name, value):
    wrong = tensors[name].clone()
    wrong[0, 3] = value
    with pytest.raises(wkv.CheckpointError, match=f"{name}: 1 of .* NaN or infinite"):
        wkv.load(saved(tmp_path, tensors | {name: wrong}))


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_nan_anywhere_in_a_vector_is_refused(tmp_path, tensors, engine):
    wrong = tensors["blocks.2.ln1.weight"].clone()
    wrong[-1] = float("nan")
    path = saved(tmp_path, tensors | {"blocks.2.ln1.weight": wrong})
    with pytest.raises(wkv.CheckpointError, match=r"m\.pth: blocks\.2\.ln1\.weight: 1 of 128"):
        wkv.load(path, engine=engine)


def test_nan_anywhere_is_refused_if_matrices_are_packed(tmp_path, tensors):
    from wkv.convert.quantize import quantize

    wrong = tensors["blocks.2.ffn.value.weight"].clone()
    wrong[-1, -1] = float("nan")
    path = saved(tmp_path, tensors | {"blocks.2.ffn.value.weight": wrong})
    with pytest.raises(wkv.CheckpointError, match=r"blocks\.2\.ffn\.value\.weight: 1 of"):
        wkv.load(path, "cpu int8")
    with pytest.raises(wkv.CheckpointError, match=r"blocks\.2\.ffn\.value\.weight: 1 of"):
        quantize(path, tmp_path / "q", to="int4")
    assert not list(tmp_path.glob("q*"))


LIMITED = """
import resource, sys, wkv
from wkv.inference.describe import describe
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 300 * 2**20
describe()
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    describe(sys.argv[1])
except wkv.CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_memory_that_runs_out_is_not_called_damage(tmp_path, ending):
    path = tmp_path / f"large{ending}"
    content = {"emb.weight": torch.zeros(2**20, 400, dtype=torch.uint8)}
    torch.save(content, path) if ending == ".pth" else save_file(content, path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=120
    )
    assert "not enough memory to open this file of 0.4 GiB" in done.stdout, done.stderr
    assert "damaged" not in done.stdout


def _as_fla(tensors):
    return foreign_tensors(tensors, FLA7)


def _as_chatrwkv(tensors):
    return {**tensors, "_strategy": "cpu fp32", "_version": "0.7", "_rescale_layer": 0}


@pytest.mark.parametrize("layout", ["official", "web-rwkv", "fla", "chatrwkv", "stacked"])
def test_tensors_of_wrong_shapes_are_one_clear_error(tmp_path, layout):
    generation = {"official": "7", "fla": "7", "stacked": "7"}.get(layout, "6")
    small = random_checkpoint(generation, n_layer=1, n_embd=32, head_size=16, vocab_size=40)
    convert = {"web-rwkv": web_rwkv, "fla": _as_fla, "chatrwkv": _as_chatrwkv}
    content = convert.get(layout, dict)(small)
    if layout == "stacked":
        content = _as_fla(small)
        parts = [content.pop(f"model.layers.0.attn.x_{letter}").flatten() for letter in "rwkvag"]
        content["model.layers.0.attn.x_x"] = torch.stack(parts)
    for name in [name for name in content if isinstance(content[name], torch.Tensor)]:
        for shape in ((), (1,), (0,), (3, 5), (2, 3, 4), (32,), (1, 2, 3, 4, 5)):
            path = saved(tmp_path, content | {name: torch.zeros(shape)})
            try:
                wkv.load(path, "cpu fp32")
            except wkv.WKVError as error:
                assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("names", [["notes.txt"], ["word/document.xml", "a"]])
def test_other_zip_files_are_recognized(tmp_path, names):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "text")
    with pytest.raises(CheckpointError, match="ZIP file without a PyTorch checkpoint") as error:
        open_checkpoint(path)
    assert "again" not in str(error.value)


def test_a_file_of_another_pickle_version_gives_no_warning(tmp_path, recwarn):
    torch.save({"x": torch.zeros(2)}, tmp_path / "model.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="more than tensors"):
        open_checkpoint(tmp_path / "model.pth")
    assert not list(recwarn)
